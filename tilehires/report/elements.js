"use strict";

// Making elements: text goes in as text nodes, never as markup, so that no file name can become one.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Control characters and direction overrides can make one name look like another: shown as what they are.
function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function severity(finding) {
  return ["error", "warning"].includes(finding.severity) ? finding.severity : "info";
}

function flagging(finding) {
  return severity(finding) !== "info";
}

function worstFirst(flags) {
  const rank = { error: 0, warning: 1 };
  return [...flags].sort((a, b) => rank[severity(a)] - rank[severity(b)]);
}

function number(value) {
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds < 60) return (seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)) + " s";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60 && seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60) % 60} s`;
  return minutes < 60 ? minutes + " min" : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = count < 1 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), 4);
  return Number((count / 1000 ** power).toPrecision(3)) + " " + units[power];
}

function dimensions(file) {
  return file && file.size && file.size[0] > 0 ? `${file.size[0]} × ${file.size[1]}` : "";
}

function seconds(image) {
  return image.stages.reduce((sum, stage) => sum + (stage.seconds || 0), 0);
}

// Any JSON value as short text.
function plain(value, key = "") {
  if (value === null || value === undefined || value === "") return "–";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (typeof value === "number") return /(^|_)bytes$/.test(key) ? bytes(value) : /(^|_)seconds$/.test(key) ? duration(value) : number(value);
  if (Array.isArray(value)) return value.length ? value.map((entry) => plain(entry, key)).join(", ") : "none";
  if (typeof value === "object") return Object.entries(value).map(([name, entry]) => `${label(name)} ${plain(entry, name)}`).join(", ") || "–";
  return visible(value);
}

function label(key) {
  return visible(key).replace(/_(bytes|seconds)$/, "").replaceAll("_", " ");
}

function facts(entries) {
  const list = el("dl", { class: "facts" });
  for (const [key, value] of entries) list.append(el("dt", {}, label(key)), el("dd", {}, plain(value, key)));
  return list;
}
