"use strict";
// Line charts in SVG. A chart: {title, scale: number|share|log, series: [{name, x, y, validations, color, exact}]}.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 208, LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 24;

function svg(name, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

function html(name, className = "", text = null) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== null) node.textContent = text;
  return node;
}

function number(value, scale) {
  if (scale === "share") return `${+(100 * value).toPrecision(3)} %`;
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(+value.toPrecision(4));
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (value !== 0 && size < 1e-3) return value.toExponential(0);
  return String(+value.toPrecision(3));
}

// Round values that span [low, high], about `count` of them.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999) * power;
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) values.push(+(k * step).toPrecision(12));
  return values;
}

function logTicks(low, high) {
  const values = [];
  const wide = Math.log10(high / low) > 2.2;
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const m of wide ? [1] : [1, 2, 5]) if (m * 10 ** p >= low * 0.999 && m * 10 ** p <= high * 1.001) values.push(m * 10 ** p);
  return values.length > 1 ? values : [low, high];
}

// Exponential moving average that starts unbiased.
function smooth(y, factor) {
  let sum = 0, weight = 0;
  return y.map((value) => {
    sum = factor * sum + (1 - factor) * value;
    weight = factor * weight + (1 - factor);
    return sum / weight;
  });
}

class Chart {
  constructor(figure, spec, settings) {
    this.figure = figure;
    this.spec = spec;
    this.settings = settings;
    this.hidden = new Set();
    this.plot = figure.querySelector(".plot");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "group");
    this.plot.setAttribute("aria-label", `${spec.title}. ${this.summary()}. Arrow keys read values.`);
    this.steps = [...new Set(spec.series.flatMap((s) => s.x))].sort((a, b) => a - b);
    if (spec.series.length > 1) this.plot.before(this.legend());
    this.tip = html("div", "tip");
    this.tip.hidden = true;
    this.tip.setAttribute("role", "status");
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.read(null));
    this.plot.addEventListener("blur", () => this.read(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  summary() {
    return this.spec.series
      .map((s) => `${s.name} from ${number(s.y[0], this.spec.scale)} to ${number(s.y[s.y.length - 1], this.spec.scale)}`)
      .join(", ");
  }

  legend() {
    const row = html("div", "legend-row");
    this.spec.series.forEach((s, i) => {
      const button = html("button", this.color(s));
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(html("i"), document.createTextNode(s.name));
      button.addEventListener("click", () => {
        if (this.hidden.has(i)) this.hidden.delete(i);
        else this.hidden.add(i);
        button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
        this.draw();
      });
      row.append(button);
    });
    return row;
  }

  color(series) {
    return series.color < 0 ? "c-r" : `c-${series.color % 8}`;
  }

  visibleSeries() {
    return this.spec.series.filter((_, i) => !this.hidden.has(i));
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const visible = this.visibleSeries(), values = visible.flatMap((s) => s.y);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    this.plot.replaceChildren(drawing, this.tip);
    this.tip.hidden = true;
    if (!values.length) return;
    const wanted = this.settings.log || this.spec.scale === "log";
    this.log = wanted && values.every((v) => v > 0);
    let low = Infinity, high = -Infinity;
    for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
    if (low === high) { const margin = Math.abs(low) * 0.1; low -= margin; high += margin || 1; if (this.log) low = Math.max(low, high / 10); }
    if (this.log) { const pad = (high / low) ** 0.05; low /= pad; high *= pad; }
    else { const pad = 0.06 * (high - low); const bottom = low >= 0 ? 0 : -Infinity; low = Math.max(low - pad, bottom); high += pad; }
    const first = this.steps[0], last = this.steps[this.steps.length - 1];
    const span = last - first || 1;
    this.x = (step) => LEFT + ((step - first) / span) * (width - LEFT - RIGHT);
    const scale = (v) => (this.log ? Math.log10(v / low) / Math.log10(high / low) : (v - low) / (high - low));
    this.y = (value) => HEIGHT - BOTTOM - scale(value) * (HEIGHT - TOP - BOTTOM);

    for (const v of this.log ? logTicks(low, high) : ticks(low, high, 4)) {
      const at = this.y(v).toFixed(1);
      drawing.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      drawing.append(svg("text", { x: LEFT - 7, y: +at + 3.5, "text-anchor": "end" }, this.spec.scale === "share" ? number(v, "share").replace(" ", "\u2009") : short(v)));
    }
    const room = Math.max(2, Math.floor(width / 90));
    const few = ticks(first, last, room).length < 3; // one or two ticks do not show how long the run was
    for (const v of ticks(first, last, few ? 2 * room : room)) {
      const at = this.x(v);
      drawing.append(svg("text", { x: at.toFixed(1), y: HEIGHT - 6, "text-anchor": at > width - 30 ? "end" : at < LEFT + 8 ? "start" : "middle" }, short(v)));
    }
    for (const s of visible) this.line(drawing, s);
    this.cross = svg("g");
    drawing.append(this.cross);
  }

  line(drawing, s) {
    const path = (y) => s.x.map((step, i) => `${i ? "L" : "M"}${this.x(step).toFixed(1)} ${this.y(y[i]).toFixed(1)}`).join("");
    const factor = s.validations || s.exact ? 0 : this.settings.smoothing;
    if (factor > 0 && s.x.length > 2) {
      drawing.append(svg("path", { class: `line raw ${this.color(s)}`, d: path(s.y) }));
      drawing.append(svg("path", { class: `line ${this.color(s)}`, d: path(smooth(s.y, factor)) }));
    } else {
      drawing.append(svg("path", { class: `line ${this.color(s)}`, d: path(s.y) }));
    }
    if ((s.validations && s.x.length <= 40) || s.x.length === 1)
      s.x.forEach((step, i) => drawing.append(svg("circle", { class: `dot ${this.color(s)}`, cx: this.x(step).toFixed(1), cy: this.y(s.y[i]).toFixed(1), r: 3.4 })));
  }

  point(event) {
    if (!this.x || !this.steps.length) return;
    const box = this.plot.getBoundingClientRect(), at = event.clientX - box.left;
    let best = 0;
    this.steps.forEach((step, i) => { if (Math.abs(this.x(step) - at) < Math.abs(this.x(this.steps[best]) - at)) best = i; });
    this.read(best);
  }

  key(event) {
    const last = this.steps.length - 1, now = this.at ?? (event.key === "ArrowRight" ? -1 : last + 1);
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 0, End: last };
    if (event.key === "Escape") return this.read(null);
    if (!(event.key in moves)) return undefined;
    event.preventDefault();
    return this.read(Math.min(last, Math.max(0, moves[event.key])));
  }

  // Shows the values at one step, or nothing.
  read(index) {
    this.at = index;
    if (!this.cross) return;
    this.cross.replaceChildren();
    this.tip.hidden = index === null;
    if (index === null) return;
    const step = this.steps[index], at = this.x(step);
    this.cross.append(svg("line", { class: "rule", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    const head = html("b", "", `step ${step.toLocaleString("en").replaceAll(",", "\u2009")}`);
    this.tip.replaceChildren(head);
    for (const s of this.visibleSeries()) {
      let i = 0;
      s.x.forEach((other, k) => { if (Math.abs(other - step) < Math.abs(s.x[i] - step)) i = k; });
      this.cross.append(svg("circle", { class: `dot ${this.color(s)}`, cx: this.x(s.x[i]), cy: this.y(s.y[i]), r: 4.5 }));
      const row = html("div");
      row.append(html("span", "", s.x[i] === step ? s.name : `${s.name} (step ${short(s.x[i])})`), html("b", "", number(s.y[i], this.spec.scale)));
      this.tip.append(row);
    }
    const room = this.plot.clientWidth - this.tip.offsetWidth - 4;
    const left = at + 12 + this.tip.offsetWidth < this.plot.clientWidth ? at + 12 : at - 12 - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, left))}px`;
  }
}

function startCharts(specs) {
  const settings = { smoothing: 0, log: false };
  const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure, specs[+figure.dataset.chart], settings));
  const redraw = () => charts.forEach((chart) => chart.draw());
  const range = document.querySelector("[data-smoothing]");
  if (range) {
    const take = () => {
      settings.smoothing = +range.value;
      range.parentElement.querySelector("output").textContent = range.value === "0" ? "none" : range.value;
    };
    take();
    range.addEventListener("input", () => { take(); redraw(); });
  }
  const button = document.querySelector("[data-scale]");
  if (button) button.addEventListener("click", () => {
    settings.log = !settings.log;
    button.setAttribute("aria-pressed", String(settings.log));
    redraw();
  });
  redraw();
}
