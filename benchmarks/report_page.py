"""How a report page of many images behaves in headless Chromium.

    python -m benchmarks.report_page [--images 1000]

A page of that many images, each with a preview of its own, from a folder on disk. Printed: the page's size; the time from
navigation until all cards stand and are laid out; how many previews were loaded by then (the rest wait until they come near
the window); the times between frames while the whole grid is scrolled through at 60 px a frame; and how long a filter takes.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.browser import Browser
from tilehires.report import write_page

SCROLL = """new Promise((done) => {
  const times = [];
  let last = performance.now();
  const step = (now) => {
    times.push(now - last);
    last = now;
    const before = scrollY;
    scrollBy(0, 60);
    if (scrollY === before) done(times.slice(1));
    else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
FILTER = """(() => {
  const began = performance.now();
  filter('0001');
  document.body.offsetHeight;
  return performance.now() - began;
})()"""
LOADED = "[...document.images].filter((image) => image.naturalWidth > 0).length"
READY = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def entry(number: int, folder: Path) -> dict[str, Any]:
    """An image of the report; its output is a file."""
    name = f"photos/{number:05d}.png"
    path = folder / "output" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)).resize((192, 128)).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    finding = {
        "check": "drift",
        "severity": "warning",
        "value": 9.0,
        "limit": 8.4,
        "box": [0, 0, 64, 64],
        "message": ".",
    }
    return {
        "id": name,
        "input": {"path": name, "size": [96, 64], "sha256": digest},
        "output": {"path": name, "size": [192, 128], "sha256": digest},
        "status": "done",
        "flagged": number % 50 == 0,
        "score": number * 7919 % 10000 / 100,
        "settings": {f"section.key{i}": {"value": i, "origin": "default"} for i in range(60)},
        "stages": [{"name": "tiled.1", "seconds": 9.0, "facts": {"tiles": [[x, 0, x + 9, 9] for x in range(16)]}}],
        "findings": [finding] if number % 50 == 0 else [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A report page of many images in headless Chromium.")
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tilehires-page-") as made:
        folder = Path(made)
        images = [entry(number, folder) for number in range(given.images)]
        run = {"input_folder": None, "output_folder": ".."}
        page = write_page({"version": 1, "run": run, "summary": {}, "images": images}, folder / "output")
        browser = Browser(folder / "profile")
        try:
            browser.open(page)
            cards = browser.evaluate("document.querySelectorAll('#grid .card').length")
            print(
                f"{cards} cards; page {page.stat().st_size / 1e6:.2f} MB, ready after {browser.evaluate(READY):.0f} ms"
            )
            print(f"previews loaded at first: {browser.evaluate(LOADED)}")
            times = np.array(browser.evaluate(SCROLL))
            middle, late, worst = *np.percentile(times, (50, 95)), times.max()
            print(
                f"scrolling: {len(times)} frames, median {middle:.1f} ms, 95 % below {late:.1f} ms, longest {worst:.1f} ms"
            )
            print(f"previews loaded after scrolling: {browser.evaluate(LOADED)}")
            took = browser.evaluate(FILTER)
            print(f"a filter over all: {took:.0f} ms; errors: {browser.errors()}")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
