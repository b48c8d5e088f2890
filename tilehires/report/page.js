"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const viewer = createViewer($("stage"));
const marks = createMarks(`tilehires-marks:${location.pathname}:${DATA.run.started || ""}`, DATA.images);
const state = { show: "all", words: [], sort: "attention", visible: [], current: -1 };

const SHOWN = {
  all: () => true,
  failed: (image) => image.status === "failed",
  flagged: (image) => image.flagged,
  done: (image) => image.status === "done",
  cached: (image) => image.cached,
  skipped: (image) => image.status === "skipped",
  marked: (image) => marks.of(image) !== null,
};

function attention(image) {
  if (image.status === "failed") return 0;
  if (image.flagged) return image.findings.some((finding) => severity(finding) === "error") ? 1 : 2;
  return image.status === "done" ? 3 : 4;
}

const names = new Intl.Collator("en", { numeric: true });
const pixels = (image) => { const size = (image.output || image.input || {}).size || [0, 0]; return size[0] * size[1]; };
// What has no score is behind what has one.
const score = (image) => typeof image.score === "number" ? image.score : -1;
const byName = (a, b) => names.compare(a.image.id, b.image.id);
const ORDERS = {
  attention: (a, b) => attention(a.image) - attention(b.image) || byName(a, b),
  score: (a, b) => score(b.image) - score(a.image) || byName(a, b),
  name: byName,
  seconds: (a, b) => seconds(b.image) - seconds(a.image) || byName(a, b),
  pixels: (a, b) => pixels(b.image) - pixels(a.image) || byName(a, b),
};

function badge(image) {
  if (image.status === "failed") return el("span", { class: "badge error" }, "Failed");
  if (image.review) return el("span", { class: "badge" }, image.review === "accepted" ? "Accepted" : "Discarded");
  if (image.status === "skipped") return el("span", { class: "badge" }, "Skipped");
  if (!image.flagged || !image.findings.some(flagging)) return null;
  const flags = worstFirst(image.findings.filter(flagging));
  const checks = [...new Set(flags.map((finding) => visible(finding.check)))];
  const more = checks.length > 1 ? ` +${checks.length - 1}` : "";
  return el("span", { class: "badge " + severity(flags[0]) }, checks[0] + more);
}

function showMark(node, image) {
  const verdict = marks.of(image);
  if (verdict) node.dataset.mark = verdict;
  else delete node.dataset.mark;
}

function card(image) {
  const picture = image.thumb
    ? el("img", { src: image.thumb, alt: "", loading: "lazy", decoding: "async", draggable: "false" })
    : el("span", { class: "blank" }, "no preview");
  const time = seconds(image);
  const facts = [dimensions(image.output || image.input), image.cached ? "from cache" : time ? duration(time) : ""].filter(Boolean);
  const line = image.error ? image.error.message : image.status === "skipped" ? image.notes[0] || "" : facts.join(" · ");
  const at = image.id.lastIndexOf("/");
  return el("a", { class: "card", href: "#" + image.anchor, title: visible(image.id) },
    el("span", { class: "thumb" }, picture, badge(image)),
    el("span", { class: "name" }, visible(image.id.slice(at + 1))),
    at < 0 ? null : el("span", { class: "muted" }, visible(image.id.slice(0, at))),
    el("span", { class: "muted" }, visible(line)));
}

// What the filter looks at, in lower case.
function words(image) {
  const own = Object.entries({ ...DATA.settings, ...image.settings });
  const prompts = own.filter(([key]) => key.endsWith("prompt")).map(([, entry]) => entry.value);
  const error = image.error ? [image.error.type, image.error.message] : [];
  const checks = image.findings.filter(flagging).flatMap((finding) => [finding.check, finding.message]);
  const kinds = image.regions.map((region) => region.kind);
  return [image.id, image.status, image.flagged ? "flagged" : "", image.review, ...error, ...checks, ...kinds, ...prompts].join("\n").toLowerCase();
}

const entries = DATA.images.map((image) => ({ image, card: card(image), text: null }));

function matches(entry) {
  if (!SHOWN[state.show](entry.image)) return false;
  if (!state.words.length) return true;
  entry.text ??= words(entry.image);
  return state.words.every((word) => entry.text.includes(word));
}

function arrange() {
  state.visible = entries.filter(matches).sort(ORDERS[state.sort]);
  $("grid").replaceChildren(...state.visible.map((entry) => entry.card));
  $("empty").hidden = state.visible.length > 0;
  for (const chip of document.querySelectorAll(".chip")) chip.setAttribute("aria-pressed", chip.dataset.show === state.show);
}

function filter(text) {
  state.words = text.toLowerCase().split(/\s+/).filter(Boolean);
  arrange();
}

function tilesOf(image) {
  return image.stages.findLast((stage) => stage.facts && stage.facts.tiles)?.facts.tiles || [];
}

function open(entry) {
  const { image } = entry;
  if (!state.visible.includes(entry)) { // a link to an image that the filter hides
    state.show = "all";
    $("filter").value = "";
    filter("");
  }
  state.current = state.visible.indexOf(entry);
  document.title = `${visible(image.id)} · tilehires report`;
  $("detail").hidden = false;
  $("overview").inert = true;
  document.body.classList.add("reading");
  $("detail-name").textContent = visible(image.id);
  $("position").textContent = `${state.current + 1} of ${state.visible.length}`;
  const tiles = tilesOf(image);
  $("tiles").disabled = !tiles.length;
  viewer.show(image, tiles);
  fillPanel($("panel"), image, DATA.settings, viewer);
  showVerdict(image);
  if (!$("detail").contains(document.activeElement)) $("detail-name").focus({ preventScroll: true });
  const next = state.visible[state.current + 1];
  for (const url of next ? [next.image.after, next.image.before] : []) if (url) new Image().src = url;
}

function showVerdict(image) {
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", marks.of(image) === button.dataset.verdict);
  }
}

function countMarks() {
  const count = marks.count();
  $("marked").textContent = count;
  $("marked").parentElement.disabled = !count;
  $("save").hidden = !count;
}

// The same verdict a second time takes it back.
function mark(verdict) {
  const entry = state.visible[state.current];
  if (!entry) return;
  marks.set(entry.image, marks.of(entry.image) === verdict ? null : verdict);
  showMark(entry.card, entry.image);
  showVerdict(entry.image);
  countMarks();
}

const title = document.title;
function close() {
  const entry = state.visible[state.current];
  state.current = -1;
  document.title = title;
  $("detail").hidden = true;
  $("overview").inert = false;
  document.body.classList.remove("reading");
  if (entry) entry.card.focus();
}

// The address says which image is open: back, forward and links work, and a reload stays.
function follow() {
  const anchor = location.hash.slice(1);
  const entry = anchor && entries.find(({ image }) => image.anchor === anchor);
  if (entry) open(entry);
  else if (state.current >= 0) close();
}

function leave() {
  history.replaceState(null, "", location.pathname + location.search);
  follow();
}

function turn(step) {
  const entry = state.visible[state.current + step];
  if (!entry) return;
  history.replaceState(null, "", "#" + entry.image.anchor);
  follow();
}

function press(id, on) {
  const pressed = on ?? $(id).getAttribute("aria-pressed") !== "true";
  $(id).setAttribute("aria-pressed", pressed);
  $("stage").classList.toggle("with-" + id, pressed);
}

// Arrows walk over the grid; up and down by its columns.
function walk(event) {
  const cards = state.visible.map((entry) => entry.card);
  if (!cards.length) return;
  const columns = Math.max(1, cards.findIndex((node) => node.offsetTop > cards[0].offsetTop));
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const at = cards.indexOf(document.activeElement);
  const next = at < 0 ? cards[0] : cards[at + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

const DETAIL_KEYS = {
  Escape: leave,
  ArrowLeft: () => turn(-1), ArrowUp: () => turn(-1),
  ArrowRight: () => turn(1), ArrowDown: () => turn(1),
  " ": viewer.toggle, z: viewer.toggle,
  b: () => viewer.peek(true),
  x: () => press("boxes"),
  t: () => press("tiles"),
  a: () => mark("accept"), r: () => mark("redo"), d: () => mark("discard"),
  "+": () => viewer.zoomBy(1.25), "=": () => viewer.zoomBy(1.25), "-": () => viewer.zoomBy(0.8),
  "/": () => { leave(); $("filter").focus(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (target.matches("input, select")) {
    if (key === "Escape") {
      $("filter").value = "";
      filter("");
      target.blur();
    }
    return;
  }
  if (state.current < 0) {
    if (key === "/") {
      event.preventDefault();
      $("filter").select();
    } else if (key.startsWith("Arrow")) walk(event);
    return;
  }
  if (key === " " && target.matches("button, summary, a")) return; // it presses them
  if ((key === "ArrowUp" || key === "ArrowDown") && target === $("panel")) return; // it scrolls the panel
  const action = DETAIL_KEYS[key];
  if (!action || (event.repeat && key === "b")) return;
  event.preventDefault();
  action();
});
document.addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b" && state.current >= 0) viewer.peek(false); });
addEventListener("hashchange", follow);

$("chips").addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip) return;
  state.show = chip.dataset.show;
  arrange();
});
$("filter").addEventListener("input", (event) => filter(event.target.value));
$("sort").addEventListener("change", (event) => { state.sort = event.target.value; arrange(); });
$("reset").addEventListener("click", () => { state.show = "all"; $("filter").value = ""; filter(""); });
$("close").addEventListener("click", leave);
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("fit").addEventListener("click", () => viewer.showFit());
$("full").addEventListener("click", () => viewer.showFull());
$("save").addEventListener("click", () => marks.save());
for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => mark(button.dataset.verdict));
for (const id of ["boxes", "tiles"]) $(id).addEventListener("click", () => press(id));
viewer.onchange = ({ percent, fitted, full }) => {
  $("zoom").textContent = percent + " %";
  $("fit").setAttribute("aria-pressed", fitted);
  $("full").setAttribute("aria-pressed", full && !fitted);
  $("previous").disabled = state.current <= 0;
  $("next").disabled = state.current >= state.visible.length - 1;
};

function describeRun() {
  const { started, finished, ...rest } = DATA.run;
  const [from, to] = [new Date(started), new Date(finished)];
  const parts = [DATA.images.length === 1 ? "1 image" : `${DATA.images.length.toLocaleString("en")} images`];
  if (to - from >= 0) parts.push(duration((to - from) / 1000));
  if (!Number.isNaN(+from)) parts.push(from.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }));
  if (typeof rest.device === "string") parts.push(visible(rest.device));
  $("run-line").textContent = parts.join(" · ");
  $("run-facts").append(facts(Object.entries(rest)));
  if (!DATA.has_inputs) {
    $("note").textContent = "The pictures from before aren't shown: this report doesn't say where the input folder is.";
    $("note").hidden = false;
  }
}

describeRun();
for (const entry of entries) showMark(entry.card, entry.image);
countMarks();
press("boxes", true);
arrange();
follow();
