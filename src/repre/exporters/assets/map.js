"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("plot"), tip = document.getElementById("tip"), pen = canvas.getContext("2d");
const count = data.places.length, MARGIN = 14;
const color = (cluster) => `hsl(${(cluster * 137.508) % 360} 62% ${46 + 10 * (cluster % 3)}%)`;
let chosen = null; // null, {kind: "cluster" | "group" | "duplicates", number}
let hovered = -1;

const inside = (point) => chosen === null
  || (chosen.kind === "cluster" && data.clusters[point] === chosen.number)
  || (chosen.kind === "group" && data.groups[point] === chosen.number)
  || (chosen.kind === "duplicates" && data.groups[point] >= 0);

function at(point) {
  const [x, y] = data.places[point], width = canvas.clientWidth - 2 * MARGIN, height = canvas.clientHeight - 2 * MARGIN;
  return [MARGIN + x / data.steps * width, MARGIN + (1 - y / data.steps) * height];
}

function draw() {
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const radius = count > 5000 ? 2 : count > 800 ? 3 : 4.5;
  for (const front of [false, true]) {
    for (let point = 0; point < count; point++) {
      if (inside(point) !== front) continue;
      const [x, y] = at(point);
      pen.globalAlpha = front ? 0.85 : 0.1;
      pen.fillStyle = color(data.clusters[point]);
      pen.beginPath();
      pen.arc(x, y, front && chosen ? radius + 1 : radius, 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  if (hovered >= 0) {
    const [x, y] = at(hovered);
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, radius + 3, 0, 7);
    pen.stroke();
  }
}

function hover(point) {
  hovered = point;
  tip.hidden = point < 0;
  if (point >= 0) {
    const [image, caption] = tip.children, group = data.groups[point];
    image.hidden = !(point in data.thumbnails);
    if (!image.hidden) image.src = data.thumbnails[point];
    caption.textContent = `${data.paths[point]} – cluster ${data.clusters[point]}${group >= 0 ? `, near-duplicates ${group}` : ""}`;
    const [x, y] = at(point);
    tip.style.left = `${Math.max(4, Math.min(x + 12, canvas.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 12 + tip.offsetHeight < canvas.clientHeight ? y + 12 : Math.max(4, y - 12 - tip.offsetHeight)}px`;
  }
  draw();
}

function nearest(event) {
  const box = canvas.getBoundingClientRect(), left = event.clientX - box.left, top = event.clientY - box.top;
  let best = -1, smallest = 20 ** 2;
  for (let point = 0; point < count; point++) {
    if (!inside(point)) continue;
    const [x, y] = at(point), distance = (x - left) ** 2 + (y - top) ** 2;
    if (distance < smallest) [best, smallest] = [point, distance];
  }
  return best;
}

function choose(next, label) {
  chosen = next;
  document.getElementById("chosen").textContent = label || "";
  document.getElementById("all").setAttribute("aria-pressed", String(next === null));
  document.getElementById("duplicates").setAttribute("aria-pressed", String(next !== null && next.kind === "duplicates"));
  hover(-1);
}

function rows(section, kind, title, members, sizes) {
  members.forEach((points, number) => {
    const row = document.createElement("div"), button = document.createElement("button");
    row.className = "row";
    button.type = "button";
    const dot = document.createElement("span"), label = `${title} ${number}`;
    dot.className = "dot";
    dot.style.background = kind === "cluster" ? color(number) : "currentColor";
    button.append(dot, `${label} (${sizes[number]})`);
    button.addEventListener("click", () => { choose({ kind, number }, label); canvas.scrollIntoView({ block: "center" }); });
    row.append(button);
    for (const point of points) {
      const image = document.createElement("img");
      image.src = data.thumbnails[point];
      image.alt = image.title = data.paths[point];
      image.loading = "lazy";
      row.append(image);
    }
    section.append(row);
  });
}

rows(document.getElementById("clusters"), "cluster", "Cluster", data.shownClusters, data.clusterSizes);
const groups = document.getElementById("groups"), note = document.createElement("p");
note.textContent = data.groupSizes.length ? "Images whose features are nearly the same; the first groups." : "None at this threshold.";
groups.append(note);
rows(groups, "group", "Group", data.shownGroups, data.groupSizes);
document.getElementById("all").addEventListener("click", () => choose(null));
document.getElementById("duplicates").addEventListener("click", () => choose({ kind: "duplicates" }));
canvas.addEventListener("pointermove", (event) => { const point = nearest(event); if (point !== hovered) hover(point); });
canvas.addEventListener("pointerdown", (event) => hover(nearest(event)));
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  hover((hovered + step + count) % count);
});
new ResizeObserver(draw).observe(canvas);
draw();
