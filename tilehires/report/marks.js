"use strict";

// A reviewer's marks. The browser remembers them for this page and run; saving makes the file that `run --redo` reads.
function createMarks(key, images) {
  const known = new Map();
  try {
    const ids = new Set(images.map((image) => image.id));
    for (const [id, verdict] of JSON.parse(localStorage.getItem(key) || "[]")) if (ids.has(id)) known.set(id, verdict);
  } catch { /* a browser that keeps nothing for local files: marks then last as long as the page is open */ }

  function remember() {
    try {
      localStorage.setItem(key, JSON.stringify([...known]));
    } catch { /* as above */ }
  }

  // A TOML basic string; JSON's escapes are TOML's but for DEL, which TOML wants escaped as well.
  const text = (value) => JSON.stringify(value).replaceAll("\u007f", "\\u007f");

  // A file name that isn't text holds lone surrogates, which TOML can't: then as in the page's links.
  const name = (image) => (/\p{Surrogate}/u.test(image.id)
    ? `quoted = ${text(image.anchor.slice("image/".length))}` : `id = ${text(image.id)}`);

  function toml() {
    const marked = images.filter((image) => known.has(image.id));
    const rows = marked.map((image) => `
[[mark]]
${name(image)}
verdict = ${text(known.get(image.id))}
sha256 = ${text((image.output || {}).sha256 || "")}
`);
    return "# Marks from a tilehires report. Apply them: tilehires run INPUT -o OUTPUT --redo marks.toml\n" + rows.join("");
  }

  return {
    of: (image) => known.get(image.id) ?? null,
    count: () => known.size,
    set(image, verdict) {
      if (verdict) known.set(image.id, verdict);
      else known.delete(image.id);
      remember();
    },
    toml,
    save() {
      const url = URL.createObjectURL(new Blob([toml()], { type: "application/toml" }));
      el("a", { href: url, download: "marks.toml" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    },
  };
}
