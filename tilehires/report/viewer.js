"use strict";

// The stage of the detail view: two pictures in one box, moved and zoomed together, with a divider that stays on the screen.
function createViewer(stage) {
  const find = (id) => stage.querySelector("#" + id);
  const [after, before, overlay, split, note] = ["after", "before", "overlay", "split", "stage-note"].map(find);
  const layers = { before: find("before-layer"), after: find("after-layer") };
  const tags = { before: find("before-tag"), after: find("after-tag") };
  const MOST = 16; // 1600 %
  let size = [1, 1]; // of the output, in its pixels
  let leader = "after"; // whose size counts: the input's where nothing was made, never that of an output that is gone
  let zoom = 1; // CSS pixels per image pixel
  let x = 0, y = 0; // of the image's corner in the stage
  let fitted = true;
  let position = 0.5; // of the divider
  let peek = false; // before only, while its key is held
  let shown = { before: false, after: false };
  let pointer = null; // where the mouse was last, to zoom to
  let onchange = () => {};
  let ondraw = () => {};

  const full = () => 1 / devicePixelRatio;
  const fit = () => Math.min(stage.clientWidth / size[0], stage.clientHeight / size[1], full());
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  // On whole screen pixels: between them the browser would blur what 100 % is there to show.
  function place(corner, length, room) {
    const free = length <= room ? (room - length) / 2 : within(corner, room - length, 0);
    return Math.round(free * devicePixelRatio) / devicePixelRatio;
  }

  function render() {
    if (fitted) zoom = fit();
    const [width, height] = [size[0] * zoom, size[1] * zoom];
    x = place(x, width, stage.clientWidth);
    y = place(y, height, stage.clientHeight);
    for (const node of [after, before, overlay]) {
      node.style.width = width + "px";
      node.style.height = height + "px";
      node.style.transform = `translate(${x}px, ${y}px)`;
    }
    stage.classList.toggle("pixels", zoom * devicePixelRatio >= 2);
    stage.classList.toggle("movable", width > stage.clientWidth || height > stage.clientHeight);
    const both = shown.before && shown.after;
    const edge = !both ? (shown.before ? 1 : 0) : peek ? 1 : position;
    layers.before.style.clipPath = `inset(0 ${(1 - edge) * 100}% 0 0)`;
    layers.after.style.clipPath = `inset(0 0 0 ${edge * 100}%)`;
    split.style.left = edge * 100 + "%";
    split.hidden = !both || peek;
    split.setAttribute("aria-valuenow", Math.round(position * 100));
    tags.before.hidden = !shown.before || edge === 0;
    tags.after.hidden = !shown.after || edge === 1;
    onchange({ percent: Math.round(zoom * devicePixelRatio * 100), fitted, full: Math.abs(zoom - full()) < 1e-6 });
  }

  function zoomTo(value, at = null) {
    const [px, py] = at || [stage.clientWidth / 2, stage.clientHeight / 2];
    const next = within(value, Math.min(fit(), full()), MOST * full());
    x = px - (px - x) * (next / zoom);
    y = py - (py - y) * (next / zoom);
    zoom = next;
    fitted = zoom <= fit() + 1e-9;
    render();
  }

  function showFit() {
    fitted = true;
    render();
  }

  function toggle() {
    if (Math.abs(zoom - full()) < 1e-6 && zoom > fit() + 1e-9) showFit();
    else zoomTo(full(), pointer);
  }

  function showBox([x0, y0, x1, y1]) {
    const room = 0.5 * Math.min(stage.clientWidth / Math.max(x1 - x0, 1), stage.clientHeight / Math.max(y1 - y0, 1));
    zoom = within(room, fit(), 4 * full());
    fitted = zoom <= fit() + 1e-9;
    x = stage.clientWidth / 2 - ((x0 + x1) / 2) * zoom;
    y = stage.clientHeight / 2 - ((y0 + y1) / 2) * zoom;
    render();
  }

  function shape(name, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function rectangle([x0, y0, x1, y1], name) {
    return shape("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: name });
  }

  function drawOverlay(image, tiles) {
    overlay.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    const outline = tiles.map(([x0, y0, x1, y1]) => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`).join("");
    overlay.replaceChildren(
      shape("path", { d: outline, class: "tiles" }),
      ...image.regions.filter((region) => region.box).map((region) => rectangle(region.box, "region")),
      ...image.regions.filter((region) => region.fate === "repaired" && (region.outline || []).length > 2)
        .map((region) => shape("polygon", { points: region.outline.join(" "), class: "mask" })),
      ...image.findings.filter((finding) => finding.box && flagging(finding)).flatMap((finding, index) => [
        rectangle(finding.box, "halo"),
        rectangle(finding.box, "finding " + severity(finding)),
      ]),
    );
  }

  function load(picture, kind, url) {
    shown[kind] = url !== null;
    layers[kind].hidden = url === null;
    if (url === null) picture.removeAttribute("src");
    else picture.src = url;
  }

  function say(text) {
    note.textContent = text;
    note.hidden = !text;
  }

  // The whole picture is drawn at once, in the output's frame; a failed image shows its input alone.
  function show(image, tiles) {
    const known = (image.output || image.input || {}).size;
    size = known && known[0] > 0 && known[1] > 0 ? known : [1, 1];
    [fitted, peek, x, y] = [true, false, 0, 0];
    leader = image.after === null ? "before" : "after";
    say(image.before || image.after ? "" : "There is no picture to show.");
    load(after, "after", image.after);
    load(before, "before", image.before);
    tags.before.textContent = image.after ? "Before" : "Input";
    drawOverlay(image, tiles);
    ondraw = () => drawOverlay(image, tiles);
    render();
  }

  for (const [kind, picture] of Object.entries({ after, before })) {
    picture.addEventListener("load", () => {
      if (kind === leader && (picture.naturalWidth !== size[0] || picture.naturalHeight !== size[1])) {
        size = [picture.naturalWidth, picture.naturalHeight];
        ondraw();
      }
      render();
    });
    picture.addEventListener("error", () => {
      if (!picture.getAttribute("src")) return;
      shown[kind] = false;
      layers[kind].hidden = true;
      const name = kind === "after" ? "output" : "input";
      say(`The ${name} isn't there any more, or is in a format this browser can't show.`);
      render();
    });
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [px, py] = local(event);
    zoomTo(zoom * Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), [px, py]);
  }, { passive: false });

  function local(event) {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  // One drag: of the divider when it starts there, else of the picture.
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    const divides = split.contains(event.target);
    let [lastX, lastY] = local(event);
    stage.setPointerCapture(event.pointerId);
    stage.classList.add(divides ? "dividing" : "dragging");
    const move = (motion) => {
      const [px, py] = local(motion);
      if (divides) position = within(px / stage.clientWidth, 0, 1);
      else [x, y] = [x + px - lastX, y + py - lastY];
      [lastX, lastY] = [px, py];
      render();
    };
    const end = () => {
      stage.classList.remove("dividing", "dragging");
      stage.removeEventListener("pointermove", move);
    };
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", end, { once: true });
    stage.addEventListener("pointercancel", end, { once: true });
  });
  stage.addEventListener("pointermove", (event) => { pointer = local(event); });
  stage.addEventListener("pointerleave", () => { pointer = null; });
  stage.addEventListener("dblclick", (event) => {
    pointer = local(event);
    toggle();
  });
  split.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    position = within(position + step, 0, 1);
    render();
  });
  new ResizeObserver(render).observe(stage);

  return {
    show, toggle, showFit, showBox,
    showFull: () => zoomTo(full(), pointer),
    zoomBy: (factor) => zoomTo(zoom * factor),
    peek: (on) => { peek = on; render(); },
    mark: (index) => overlay.querySelectorAll(".finding").forEach((node, i) => node.classList.toggle("hot", i === index)),
    pictures: { before, after },
    set onchange(listener) { onchange = listener; },
  };
}
