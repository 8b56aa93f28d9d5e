// Images of the album, the reconstruction over time, colors over images, and similarity maps.

function startImages(uris) {
  document.querySelectorAll("img[data-key]").forEach((img) => { img.src = uris[img.dataset.key]; });
}

function startFilms(films, uris) {
  for (const root of document.querySelectorAll("[data-film]")) {
    const film = films[+root.dataset.film], range = root.querySelector("[data-frame]");
    if (!range) continue;
    const rebuilt = [...root.querySelectorAll(".pairs figure img:last-child")];
    const output = range.parentElement.querySelector("output"), play = root.querySelector("[data-play]");
    const show = () => {
      const frame = film.frames[+range.value];
      rebuilt.forEach((img, i) => { img.src = uris[frame[i]]; });
      output.textContent = film.captions[+range.value];
      range.setAttribute("aria-valuetext", film.captions[+range.value]);
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.setAttribute("aria-pressed", "false"); play.textContent = "Play"; };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (+range.value === film.frames.length - 1) range.value = 0;
      show();
      play.setAttribute("aria-pressed", "true");
      play.textContent = "Pause";
      timer = setInterval(() => {
        range.value = +range.value + 1;
        show();
        if (+range.value === film.frames.length - 1) stop();
      }, 450);
      return undefined;
    });
    range.addEventListener("input", () => { if (timer) stop(); show(); });
    show();
  }
}

function startMix() {
  for (const range of document.querySelectorAll("[data-mix]")) {
    const output = range.parentElement.querySelector("output");
    const show = () => {
      range.closest("section").style.setProperty("--mix", String(+range.value / 100));
      output.textContent = `${range.value} %`;
    };
    range.addEventListener("input", show);
    show();
  }
}

// Violet, magenta, orange, pale yellow over a darkened image: lightness rises, so the map reads without color too.
const HEAT = [[112, 30, 120], [168, 42, 104], [214, 72, 68], [240, 120, 40], [250, 172, 44], [252, 236, 150]];

// Color and opacity of a similarity in [0, 1].
function heat(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (HEAT.length - 1), i = Math.floor(at), t = at - i;
  const opacity = Math.max(0, share) ** 0.55;
  return [...HEAT[i].map((value, k) => Math.round(value + t * (HEAT[i + 1][k] - value))), Math.round(255 * opacity)];
}

class Similarity {
  constructor(root, packed, onSelect) {
    this.root = root;
    [this.n, this.h, this.w, this.d] = packed.shape;
    const bytes = atob(packed.values);
    this.values = new Int8Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) this.values[i] = bytes.charCodeAt(i);
    this.maps = [...root.querySelectorAll(".map")];
    this.onSelect = onSelect;
    this.readout = root.querySelector(".readout");
    this.maps.forEach((map, image) => {
      const canvas = map.querySelector("canvas");
      canvas.className = "heat";
      canvas.width = this.w;
      canvas.height = this.h;
      const marks = html("canvas", "marks");
      marks.setAttribute("aria-hidden", "true");
      map.append(marks);
      map.addEventListener("click", (event) => {
        const box = map.getBoundingClientRect();
        this.select(image, (event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width, true);
      });
      map.addEventListener("keydown", (event) => this.key(event, image));
    });
    this.legend();
    new ResizeObserver(() => { if (this.selected) this.rings(); }).observe(root);
  }

  legend() {
    const canvas = this.root.querySelector(".legend"), context = canvas.getContext("2d");
    for (let x = 0; x < canvas.width; x++) {
      const [red, green, blue, opacity] = heat(x / (canvas.width - 1));
      context.fillStyle = `rgba(${red},${green},${blue},${opacity / 255})`;
      context.fillRect(x, 0, 1, 1);
    }
  }

  key(event, image) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Enter: [0, 0], " ": [0, 0] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const here = this.selected && this.selected.image === image ? this.selected : { row: Math.floor(this.h / 2) - move[0], column: Math.floor(this.w / 2) - move[1] };
    const row = Math.min(this.h - 1, Math.max(0, here.row + move[0]));
    const column = Math.min(this.w - 1, Math.max(0, here.column + move[1]));
    this.select(image, (row + 0.5) / this.h, (column + 0.5) / this.w, true);
  }

  // Selects the patch at a position given as shares of the image's height and width.
  select(image, down, across, notify = false) {
    if (image >= this.n) return;
    const row = Math.min(this.h - 1, Math.max(0, Math.floor(down * this.h)));
    const column = Math.min(this.w - 1, Math.max(0, Math.floor(across * this.w)));
    this.selected = { image, row, column };
    this.cosines = this.compare(((image * this.h + row) * this.w + column) * this.d);
    this.paint();
    if (notify) this.onSelect(this, image, down, across);
  }

  compare(start) {
    const query = this.values.subarray(start, start + this.d), cosines = new Float32Array(this.n * this.h * this.w);
    let squares = 0;
    for (let k = 0; k < this.d; k++) squares += query[k] * query[k];
    for (let p = 0; p < cosines.length; p++) {
      let dot = 0, length = 0;
      for (let k = 0; k < this.d; k++) {
        const value = this.values[p * this.d + k];
        dot += value * query[k];
        length += value * value;
      }
      cosines[p] = dot / (Math.sqrt(squares * length) || 1);
    }
    return cosines;
  }

  paint() {
    const cells = this.h * this.w, low = 0, high = 1; // the features are centered: 0 means unrelated
    this.best = this.maps.map((map, image) => {
      const context = map.querySelector(".heat").getContext("2d"), pixels = context.createImageData(this.w, this.h);
      let best = 0;
      for (let p = 0; p < cells; p++) {
        const value = this.cosines[image * cells + p], share = Math.max(0, (value - low) / (high - low));
        if (value > this.cosines[image * cells + best]) best = p;
        pixels.data.set(heat(share), 4 * p);
      }
      context.putImageData(pixels, 0, 0);
      map.classList.toggle("selected", image === this.selected.image);
      return best;
    });
    this.rings();
    this.root.querySelector("[data-low]").textContent = low.toFixed(2);
    this.root.querySelector("[data-high]").textContent = high.toFixed(2);
    this.say();
  }

  rings() {
    const { image: query, row, column } = this.selected, ratio = window.devicePixelRatio || 1;
    this.maps.forEach((map, image) => {
      const canvas = map.querySelector(".marks"), cell = map.clientWidth / this.w, tall = map.clientHeight / this.h;
      canvas.width = Math.max(1, Math.round(map.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(map.clientHeight * ratio));
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      const ring = (x, y, square) => {
        for (const [color, width] of [["rgb(0 0 0 / 70%)", 4], ["#ffffff", 2]]) {
          context.strokeStyle = color;
          context.lineWidth = width;
          context.beginPath();
          if (square) context.rect(x * cell + 1, y * tall + 1, cell - 2, tall - 2);
          else context.arc((x + 0.5) * cell, (y + 0.5) * tall, Math.max(4, cell * 0.38), 0, 7);
          context.stroke();
        }
      };
      if (image === query) ring(column, row, true);
      else ring(this.best[image] % this.w, Math.floor(this.best[image] / this.w), false);
    });
  }

  say() {
    const { image, row, column } = this.selected, cells = this.h * this.w;
    const order = this.best
      .map((patch, other) => [this.cosines[other * cells + patch], other, patch])
      .filter(([, other]) => other !== image)
      .sort((a, b) => b[0] - a[0]);
    let text = `Image ${image + 1}, row ${row + 1}, column ${column + 1}.`;
    if (order.length) {
      const [cosine, other, patch] = order[0];
      text += ` Best match in another image: image ${other + 1}, row ${Math.floor(patch / this.w) + 1}, column ${(patch % this.w) + 1}, cosine ${cosine.toFixed(2)}.`;
    }
    this.readout.textContent = text;
  }
}

function startSimilarity(packed) {
  const groups = [];
  const share = (from, image, down, across) => groups.forEach((group) => { if (group !== from) group.select(image, down, across); });
  for (const root of document.querySelectorAll("[data-patches]")) groups.push(new Similarity(root, packed[+root.dataset.patches], share));
  groups.forEach((group) => group.select(0, 0.5, 0.5));
  const range = document.querySelector("[data-strength]"), check = document.querySelector("[data-smooth]");
  if (!range) return;
  const section = range.closest("section"), output = range.parentElement.querySelector("output");
  const show = () => {
    section.style.setProperty("--strength", String(+range.value / 100));
    output.textContent = `${range.value} %`;
  };
  range.addEventListener("input", show);
  check.addEventListener("change", () => section.classList.toggle("smooth", check.checked));
  show();
}
