"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const cells = createCells($("cells"), DATA.cells, DATA.input);
let current = -1;

function caption(cell) {
  const parts = cell.labels.map((text) => {
    const at = text.indexOf(" ");
    return el("span", {}, visible(text.slice(0, at + 1)), el("b", {}, visible(text.slice(at + 1))));
  });
  return el("p", { class: "label" }, ...parts);
}

function verdict(cell) {
  const time = typeof cell.seconds === "number" ? " · " + duration(cell.seconds) : "";
  const size = cell.size ? ` · ${cell.size[0]} × ${cell.size[1]}` : "";
  if (!cell.findings.length) return el("p", { class: "verdict" }, visible(cell.verdict) + time + size);
  const lines = cell.findings.map((finding) => el("li", {}, `${visible(finding.check)}: ${visible(finding.message || "")}`));
  return el("details", { class: "verdict " + cell.severity },
    el("summary", {}, el("b", {}, visible(cell.verdict)), time + size), el("ul", {}, ...lines));
}

const nodes = DATA.cells.map((cell, number) =>
  el("article", { class: "cell" + (cell.status === "failed" ? " failed" : ""), tabindex: "0" }, caption(cell), cells.boxes[number], verdict(cell)));

function single() {
  return $("solo").getAttribute("aria-pressed") === "true";
}

function select(number) {
  const node = nodes[number];
  if (!node) return;
  current = number;
  for (const one of nodes) one.classList.toggle("current", one === node);
  if (document.activeElement !== node) node.focus({ preventScroll: single() });
  if (single()) cells.render();
}

function solo(on = !single()) {
  $("solo").setAttribute("aria-pressed", on);
  $("cells").classList.toggle("one", on);
  columns();
  select(Math.max(current, 0));
  cells.render();
}

function columns() {
  $("cells").style.gridTemplateColumns = single() ? "minmax(0, 1fr)" : `repeat(${DATA.columns}, minmax(170px, 1fr))`;
}

function peek(on) {
  $("before").setAttribute("aria-pressed", on);
  cells.peek(on);
}

const STEPS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function arrow(event) {
  const [x, y] = STEPS[event.key];
  if (event.shiftKey) cells.move(60 * x, 60 * y);
  else select(current < 0 ? 0 : current - x - y * DATA.columns);
}

const KEYS = {
  " ": cells.toggle, z: cells.toggle, 0: cells.showFit, 1: cells.showFull,
  "+": () => cells.zoomBy(1.25), "=": () => cells.zoomBy(1.25), "-": () => cells.zoomBy(0.8),
  b: () => peek(true), Enter: () => solo(), Escape: () => solo(false),
  ArrowLeft: arrow, ArrowRight: arrow, ArrowUp: arrow, ArrowDown: arrow,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ((key === " " || key === "Enter") && event.target.matches("button, summary, a")) return; // it presses them
  const action = KEYS[key];
  if (!action || (event.repeat && key === "b")) return;
  event.preventDefault();
  action(event);
});
document.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b") peek(false); });
addEventListener("blur", () => peek(false));

nodes.forEach((node, number) => node.addEventListener("focusin", () => {
  current = number;
  for (const one of nodes) one.classList.toggle("current", one === node);
}));
$("fit").addEventListener("click", cells.showFit);
$("full").addEventListener("click", cells.showFull);
$("solo").addEventListener("click", () => solo());
$("before").addEventListener("click", () => peek($("before").getAttribute("aria-pressed") !== "true"));
cells.onchange = ({ percent, fitted, full }) => {
  $("zoom").textContent = percent + " %";
  $("fit").setAttribute("aria-pressed", fitted);
  $("full").setAttribute("aria-pressed", full && !fitted);
};

function about() {
  const made = DATA.cells.filter((cell) => cell.url !== null).length;
  const seeds = [...new Set(DATA.cells.map((cell) => cell.seed).filter((seed) => seed !== null))];
  const parts = [made === DATA.cells.length ? `${made} cells` : `${made} of ${DATA.cells.length} cells`];
  if (seeds.length === 1) parts.push(`seed ${seeds[0]}`);
  $("name").textContent = visible(DATA.name);
  $("about").textContent = parts.join(" · ");
  const entries = Object.entries(DATA.settings).map(([key, { value, origin }]) => [key, `${plain(value)}  (${origin})`]);
  $("settings").hidden = !entries.length;
  const list = el("dl", { class: "facts" });
  for (const [key, value] of entries) list.append(el("dt", {}, visible(key)), el("dd", {}, visible(value)));
  $("settings").append(list);
}

about();
columns();
$("cells").append(...nodes);
cells.render();
