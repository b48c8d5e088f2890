"use strict";

// Pictures side by side, moved and zoomed as one. They may differ in size: the largest is the measure, and in the others the
// same place of the picture lies in the same spot.
function createCells(root, cells, input) {
  const MOST = 16; // 1600 %
  const frame = cells.reduce((most, { size }) => (size && size[0] * size[1] > most[0] * most[1] ? size : most), [1, 1]);
  let zoom = 1; // CSS pixels per pixel of the largest picture
  let centre = [frame[0] / 2, frame[1] / 2]; // what lies in the middle of every view, in the same pixels
  let fitted = true;
  let pointer = null; // where the mouse was last, from the middle of its view
  let onchange = () => {};

  const full = () => 1 / devicePixelRatio;
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  function view(cell) {
    const pictures = [];
    const box = el("div", { class: "view", role: "img", "aria-label": cell.labels.map(visible).join(", ") });
    const blank = (text) => box.replaceChildren(el("p", { class: "blank" }, visible(text)));
    if (cell.url === null) blank(cell.error || "Not made yet: the same command goes on.");
    else {
      const scale = Math.min(frame[0] / cell.size[0], frame[1] / cell.size[1]);
      for (const [name, url] of [["output", cell.url], ["input", input]]) {
        const picture = el("img", { class: name, src: url, alt: "", draggable: "false" });
        if (name === "output") picture.addEventListener("error", () => blank("The picture isn't there any more, or is in a format this browser can't show."));
        else picture.addEventListener("error", () => picture.remove());
        pictures.push({ picture, size: cell.size.map((length) => length * scale) });
        box.append(picture);
      }
      box.append(el("i", { class: "cross", hidden: true }));
    }
    return { box, pictures };
  }

  const views = cells.map(view);
  const cross = () => root.querySelectorAll(".cross");

  function room() {
    const seen = views.find(({ box }) => box.clientWidth > 0);
    return seen ? [seen.box.clientWidth, seen.box.clientHeight] : [1, 1];
  }

  const fit = () => { const [width, height] = room(); return Math.min(width / frame[0], height / frame[1], full()); };

  function render() {
    const space = room();
    if (fitted) zoom = fit();
    centre = centre.map((value, axis) => {
      const half = space[axis] / zoom / 2;
      return 2 * half >= frame[axis] ? frame[axis] / 2 : within(value, half, frame[axis] - half);
    });
    // On whole screen pixels: between them the browser would blur what 100 % is there to show.
    const at = centre.map((value, axis) => Math.round((space[axis] / 2 - value * zoom) * devicePixelRatio) / devicePixelRatio);
    for (const { pictures } of views) {
      for (const { picture, size } of pictures) {
        picture.style.width = size[0] * zoom + "px";
        picture.style.height = size[1] * zoom + "px";
        picture.style.transform = `translate(${at[0]}px, ${at[1]}px)`;
      }
    }
    root.classList.toggle("pixels", zoom * devicePixelRatio >= 2);
    root.classList.toggle("movable", frame[0] * zoom > space[0] || frame[1] * zoom > space[1]);
    onchange({ percent: Math.round(zoom * devicePixelRatio * 100), fitted, full: Math.abs(zoom - full()) < 1e-6 });
  }

  // What lies under `at`, from a view's middle, stays there.
  function zoomTo(value, at = null) {
    const next = within(value, Math.min(fit(), full()), MOST * full());
    if (at) centre = centre.map((place, axis) => place + at[axis] / zoom - at[axis] / next);
    zoom = next;
    fitted = zoom <= fit() + 1e-9;
    render();
  }

  function showFit() {
    fitted = true;
    render();
  }

  function toggle() {
    if (Math.abs(zoom - full()) < 1e-6 && !fitted) showFit();
    else {
      zoomTo(full(), pointer);
      fitted = false;
    }
  }

  function move(dx, dy) {
    centre = [centre[0] - dx / zoom, centre[1] - dy / zoom];
    render();
  }

  function fromMiddle(event, box) {
    const place = box.getBoundingClientRect();
    return [event.clientX - place.left - place.width / 2, event.clientY - place.top - place.height / 2];
  }

  function follow(at) {
    pointer = at;
    for (const node of cross()) {
      node.hidden = at === null;
      if (at) node.style.transform = `translate(${at[0] + node.parentNode.clientWidth / 2}px, ${at[1] + node.parentNode.clientHeight / 2}px)`;
    }
  }

  for (const { box } of views) {
    box.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return; // the browser's own zoom
      event.preventDefault();
      zoomTo(zoom * Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), fromMiddle(event, box));
    }, { passive: false });
    box.addEventListener("pointermove", (event) => follow(fromMiddle(event, box)));
    box.addEventListener("pointerleave", () => follow(null));
    box.addEventListener("dblclick", (event) => {
      pointer = fromMiddle(event, box);
      toggle();
    });
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      let [lastX, lastY] = [event.clientX, event.clientY];
      box.setPointerCapture(event.pointerId);
      root.classList.add("dragging");
      const drag = (motion) => {
        move(motion.clientX - lastX, motion.clientY - lastY);
        [lastX, lastY] = [motion.clientX, motion.clientY];
      };
      const end = () => {
        root.classList.remove("dragging");
        box.removeEventListener("pointermove", drag);
      };
      box.addEventListener("pointermove", drag);
      box.addEventListener("pointerup", end, { once: true });
      box.addEventListener("pointercancel", end, { once: true });
    });
  }
  new ResizeObserver(render).observe(root);

  return {
    boxes: views.map(({ box }) => box),
    render, toggle, showFit, move,
    showFull: () => { zoomTo(full(), pointer); fitted = false; },
    zoomBy: (factor) => zoomTo(zoom * factor, pointer),
    peek: (on) => root.classList.toggle("peeking", on),
    set onchange(listener) { onchange = listener; },
  };
}
