"use strict";

function section(title, count, ...children) {
  const head = el("h3", {}, title, count === null ? null : el("span", {}, String(count)));
  return el("section", {}, head, ...children);
}

// The settings an image was made with: those all share, and its own.
function settingsOf(image, common) {
  const all = { ...common, ...image.settings };
  for (const key of image.unset) delete all[key];
  return Object.entries(all);
}

// A square around a box, with room to see what it lies in; [x, y, side] in output pixels.
function surroundings([x0, y0, x1, y1], [width, height]) {
  const side = Math.min(Math.max(1.6 * Math.max(x1 - x0, y1 - y0), 96), Math.max(width, height));
  const place = (centre, room) => (side >= room ? (room - side) / 2 : Math.min(Math.max(centre - side / 2, 0), room - side));
  return [place((x0 + x1) / 2, width), place((y0 + y1) / 2, height), side];
}

// A crop is drawn when its picture has loaded; the input is scaled to the output's frame, cut at the centre as the stage does.
function crop(picture, box, size, title) {
  const side = 132 * devicePixelRatio;
  const canvas = el("canvas", { width: Math.round(side), height: Math.round(side), role: "img", "aria-label": title });
  const draw = () => {
    if (!picture.naturalWidth) return;
    const [x, y, length] = surroundings(box, size);
    const scale = Math.min(picture.naturalWidth / size[0], picture.naturalHeight / size[1]);
    const left = (picture.naturalWidth - size[0] * scale) / 2, top = (picture.naturalHeight - size[1] * scale) / 2;
    const context = canvas.getContext("2d");
    const unit = canvas.width / length;
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = unit / scale < 4;
    context.drawImage(picture, left + x * scale, top + y * scale, length * scale, length * scale, 0, 0, canvas.width, canvas.width);
    const edge = [(box[0] - x) * unit, (box[1] - y) * unit, (box[2] - box[0]) * unit, (box[3] - box[1]) * unit];
    for (const [colour, width] of [["rgb(0 0 0 / 55%)", 3], ["#fff", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * devicePixelRatio;
      context.strokeRect(...edge);
    }
  };
  if (picture.complete && picture.naturalWidth) draw();
  else picture.addEventListener("load", draw, { once: true });
  return el("figure", {}, canvas, el("figcaption", {}, title));
}

function findingItem(finding, index, image, viewer) {
  const measured = finding.value === null || finding.value === undefined ? "" : `${number(finding.value)} (limit ${number(finding.limit)})`;
  const head = el("span", { class: "finding-head" },
    el("b", { class: "severity " + severity(finding) }, severity(finding)), " ", el("b", {}, visible(finding.check)), " ", el("span", { class: "muted" }, measured));
  const item = el("li", {}, el("button", { type: "button", class: "finding-button", disabled: !finding.box, title: finding.box ? "Show the place" : null },
    head, el("span", { class: "message" }, visible(finding.message || ""))));
  if (!finding.box) return item;
  item.firstChild.addEventListener("click", () => viewer.showBox(finding.box));
  item.addEventListener("pointerenter", () => viewer.mark(index));
  item.addEventListener("pointerleave", () => viewer.mark(-1));
  const crops = el("div", { class: "crops" });
  const size = (image.output || {}).size;
  if (size && image.before) crops.append(crop(viewer.pictures.before, finding.box, size, "Before"));
  if (size && image.after) crops.append(crop(viewer.pictures.after, finding.box, size, "After"));
  item.append(crops);
  return item;
}

function findingsSection(image, viewer) {
  if (!image.findings.length) {
    return image.status === "done" ? section("Findings", null, el("p", { class: "muted" }, "The checks found nothing.")) : null;
  }
  const flags = image.findings.filter(flagging);
  const boxed = flags.filter((finding) => finding.box);
  const items = worstFirst(flags).map((finding) => findingItem(finding, boxed.indexOf(finding), image, viewer));
  const list = flags.length ? el("ul", { class: "findings" }, ...items) : el("p", { class: "muted" }, "The checks found nothing.");
  const accepted = image.review === "accepted" ? el("p", {}, "Accepted in review: not flagged, whatever the checks say.") : null;
  return section("Findings", flags.length || null, accepted, scoreLine(image), list, measuredList(image.findings.filter((finding) => !flagging(finding))));
}

function scoreLine(image) {
  if (typeof image.score !== "number") return null;
  const title = "The largest percentile of its measured values among good images";
  return el("p", { class: "muted", title }, `Score ${image.score.toFixed(1)} of 100`);
}

// What was measured and is within its limit, and what couldn't be ("n/a" is no pass).
function measuredList(findings) {
  if (!findings.length) return null;
  const absent = findings.filter((finding) => finding.value === null).length;
  const title = `${findings.length - absent} within limits` + (absent ? `, ${absent} not applicable` : "");
  const items = findings.map((finding) => findingItem({ ...finding, box: null }, -1, {}, null));
  return el("details", {}, el("summary", {}, title), el("ul", { class: "findings" }, ...items));
}

// What check.action = "retry" made, and which of it is the output.
function attemptsSection(image) {
  if (!image.attempts.length) return null;
  const rows = image.attempts.map((attempt, i) => {
    const changes = Object.entries(attempt.changes).map(([key, value]) => `${visible(key)} = ${plain(value)}`).join(", ");
    const flags = attempt.flags.length ? "flagged: " + attempt.flags.map(visible).join(", ") : "no flag";
    const score = typeof attempt.score === "number" ? `score ${attempt.score.toFixed(1)}` : "";
    return el("li", { class: attempt.kept ? "attempt kept" : "attempt" },
      el("b", {}, i ? "Second, milder" : "First"), " ", attempt.kept ? el("span", { class: "severity" }, "kept") : null,
      el("p", {}, [flags, score].filter(Boolean).join(" · ")),
      changes ? el("p", { class: "muted" }, changes) : null,
      attempt.kept ? el("p", { class: "muted" }, visible(attempt.why)) : null);
  });
  return section("Attempts", image.attempts.length, el("ol", { class: "attempts" }, ...rows));
}

function regionsSection(image, viewer) {
  if (!image.regions.length) return null;
  const rows = image.regions.map((region) => {
    const row = el("button", { type: "button", class: "row", disabled: !region.box },
      el("b", {}, visible(region.kind)), el("span", { class: "muted" }, number(region.score)), el("span", {}, visible(region.fate || "")));
    if (region.box) row.addEventListener("click", () => viewer.showBox(region.box));
    return el("li", {}, row);
  });
  return section("Detections", image.regions.length, el("ul", { class: "rows" }, ...rows));
}

function stagesSection(image) {
  if (!image.stages.length) return null;
  const longest = Math.max(...image.stages.map((stage) => stage.seconds || 0), 1e-9);
  const rows = image.stages.map((stage) => {
    const { tiles = [], regions = [], degradations = [], ...rest } = stage.facts || {};
    const meter = el("meter", { min: 0, max: longest, value: stage.seconds || 0 });
    const head = el("summary", {}, el("b", {}, visible(stage.name)), meter,
      el("span", { class: "muted" }, stage.cached ? "from cache" : duration(stage.seconds || 0)));
    const lines = Object.entries(rest);
    if (tiles.length) lines.push(["tiles", tiles.length]);
    if (regions.length) lines.push(["detections", regions.length]);
    lines.push(...Object.entries(stage.environment || {}), ["fingerprint", String(stage.fingerprint || "").slice(0, 16)]);
    const warned = degradations.length ? el("p", { class: "warn" }, "Degraded: " + plain(degradations)) : null;
    return el("li", {}, el("details", {}, head, facts(lines)), warned);
  });
  const total = seconds(image);
  return section("Stages", total ? duration(total) : null, el("ul", { class: "stages" }, ...rows));
}

function settingsTable(entries) {
  const rows = entries.flatMap(([key, entry]) => {
    const [name, value, origin] = [el("th", { scope: "row" }, visible(key)), plain(entry.value), el("td", { class: "origin" }, visible(entry.origin))];
    if (value.length <= 60) return [el("tr", {}, name, el("td", {}, value), origin)];
    return [el("tr", {}, name, el("td"), origin), el("tr", {}, el("td", { colspan: 3, class: "long" }, value))];
  });
  return el("table", { class: "settings" }, el("tbody", {}, ...rows));
}

function settingsSection(image, common) {
  const entries = settingsOf(image, common);
  if (!entries.length) return null;
  const chosen = entries.filter(([, entry]) => entry.origin !== "default");
  const rest = entries.filter(([, entry]) => entry.origin === "default");
  return section("Settings", null,
    chosen.length ? settingsTable(chosen) : el("p", { class: "muted" }, "All at their defaults."),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} at their defaults`), settingsTable(rest)) : null);
}

function filesSection(image) {
  const lines = [];
  for (const [name, file, url] of [["input", image.input, image.before], ["first pass", image.first_pass, image.before], ["output", image.output, image.after]]) {
    if (!file) continue;
    const path = url ? el("a", { href: url, target: "_blank", rel: "noopener" }, visible(file.path)) : visible(file.path);
    const hash = (file.sha256 || "").slice(0, 16);
    lines.push(el("dt", {}, name), el("dd", {}, path, el("span", { class: "muted" }, [dimensions(file), hash && "sha256 " + hash].filter(Boolean).map((part) => " · " + part).join(""))));
  }
  if (image.seed !== null) lines.push(el("dt", {}, "seed"), el("dd", {}, String(image.seed)));
  return section("Files", null, el("dl", { class: "facts" }, ...lines));
}

function fillPanel(panel, image, common, viewer) {
  const error = image.error ? el("section", { class: "failure" }, el("h3", {}, image.status === "skipped" ? "Skipped" : "Failed"), el("p", {}, visible(image.error.message)),
    image.error.hint ? el("p", { class: "hint" }, visible(image.error.hint)) : null, el("p", { class: "muted" }, visible(image.error.type))) : null;
  const notes = image.notes.length ? section("Notes", null, ...image.notes.map((line) => el("p", {}, visible(line)))) : null;
  const parts = [error, findingsSection(image, viewer), attemptsSection(image), regionsSection(image, viewer), notes, stagesSection(image), settingsSection(image, common), filesSection(image)];
  panel.replaceChildren(...parts.filter(Boolean), el("p", { class: "keys" },
    ...[["← →", "images"], ["Space", "100 %"], ["B", "hold: before"], ["X", "boxes"], ["T", "tiles"], ["A R D", "accept, redo, discard"], ["Esc", "back"]].flatMap(([key, what]) => [el("kbd", {}, key), ` ${what} `])));
  panel.scrollTop = 0;
}
