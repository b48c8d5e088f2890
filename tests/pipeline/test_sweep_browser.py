"""The page of a sweep in a real browser: all cells move together, nothing is fetched, hostile text stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import Browser, needs_chromium, themes
from tests.browser import browser as browser  # the fixture
from tilehires.report.sweep import write_sweep_page

pytestmark = needs_chromium

HOSTILE = "odd <img src=x onerror='window.owned=1'> & \"100%25\" #1.png"
LOADED = "[...document.images].every((picture) => picture.complete && picture.naturalWidth > 0)"
ZOOM = "document.getElementById('zoom').textContent"
PLACES = """[...document.querySelectorAll('.view')].map((view) => {
  const picture = view.querySelector('img');
  if (!picture) return null;
  const [a, b] = [view.getBoundingClientRect(), picture.getBoundingClientRect()];
  return [b.left - a.left, b.top - a.top, b.width, b.height];
})"""


def cell(number: int, output: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    values = {"hires.denoise": number / 10, "hires.prompt": "</script><b>bold</b>" if number == 1 else "a fox"}
    body = {
        "values": values,
        "status": "done",
        "output": output,
        "error": None,
        "findings": [],
        "score": None,
        "seed": 5,
    }
    settings = {"hires.scale": {"value": 3, "origin": "flag --scale"}}
    settings["check.limits"] = {"value": {"drift": 0.5, "nothing": None}, "origin": "flag --set"}
    return body | {"settings": settings, "seconds": 2.5} | more


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cells: large, of half the size, failed, and flagged; the input has a hostile name."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "cells").mkdir()
    large, small = Image.linear_gradient("L").resize((1600, 1200)), Image.linear_gradient("L").resize((800, 600))
    for name, picture in (("cells/a#1.png", large), ("cells/b.png", small), ("cells/d.png", large)):
        picture.save(folder / name)
    small.save(folder / HOSTILE)
    flag = {"check": "soft", "severity": "warning", "value": 1, "limit": 0, "box": None, "message": "Too <i>soft</i>."}
    files = [
        {"path": path, "size": size} for path, size in (("cells/a#1.png", [1600, 1200]), ("cells/b.png", [800, 600]))
    ]
    body = {
        "input": {"path": HOSTILE},
        "axes": [{"setting": "hires.denoise", "values": [0.0, 0.1]}, {"setting": "hires.prompt", "values": ["a", "b"]}],
        "cells": [
            cell(0, files[0]),
            cell(1, files[1]),
            cell(2, None, status="failed", error={"message": "Too large.", "hint": "Make it smaller."}),
            cell(3, {"path": "cells/d.png", "size": [1600, 1200]}, findings=[flag], score=99.5),
        ],
    }
    return write_sweep_page(body, folder)


def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    browser.until(LOADED)
    return browser


def test_all_cells_show_the_same_place_at_every_zoom(browser: Browser, page: Path) -> None:
    opened(browser, page)
    for key in ("", "z", "+", "+", "ArrowDown", "-"):
        if key:
            browser.key(key)
        first, second, failed, fourth = browser.evaluate(PLACES)
        assert first == second == fourth and failed is None, f"the cells lie apart after the key {key!r}"
    browser.key("1")
    assert browser.evaluate(ZOOM) == "100 %"
    place = browser.evaluate(PLACES)[0]
    assert place[2] == 1600 / browser.evaluate("devicePixelRatio") and place[0] == round(place[0])
    assert browser.errors() == []


def test_wheel_and_drag_move_every_cell(browser: Browser, page: Path) -> None:
    opened(browser, page)
    box = browser.evaluate("document.querySelector('.view').getBoundingClientRect().toJSON()")
    x, y = box["left"] + 0.45 * box["width"], box["top"] + 0.55 * box["height"]
    fitted = browser.evaluate(PLACES)[0]
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-900)
    browser.until(f"({PLACES})[0][2] > {2 * fitted[2]}")
    before = browser.evaluate(PLACES)
    shares = [(x - box["left"] - place[0]) / place[2] for place in (fitted, before[0])]
    assert abs(shares[0] - shares[1]) < 0.01, "what lies under the mouse stays there"
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseMoved", x - 40, y, buttons=1)
    browser.mouse("mouseReleased", x - 40, y)
    after = browser.evaluate(PLACES)
    assert [after[i][0] - before[i][0] for i in (0, 1, 3)] == [-40, -40, -40]
    shown = "[...document.querySelectorAll('.cross')].map((node) => node.hidden)"
    assert browser.evaluate(shown) == [False] * 3


def test_keys_choose_a_cell_show_it_alone_and_show_the_input(browser: Browser, page: Path) -> None:
    opened(browser, page)
    visible = "[...document.querySelectorAll('.cell')].map((node) => node.offsetParent !== null)"
    current = "[...document.querySelectorAll('.cell')].findIndex((node) => node.classList.contains('current'))"
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    browser.key("ArrowDown")
    assert browser.evaluate(current) == 3
    browser.key("Enter")
    assert browser.evaluate(visible) == [False, False, False, True]
    browser.key("ArrowUp")
    assert browser.evaluate(visible) == [False, True, False, False]
    browser.key("Escape")
    assert browser.evaluate(visible) == [True] * 4
    seen = "getComputedStyle(document.querySelector('img.input')).visibility"
    browser.key("b", up=False)
    assert browser.evaluate(seen) == "visible"
    browser.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": "b"})
    assert browser.evaluate(seen) == "hidden"


def test_text_stays_text_and_nothing_is_fetched(browser: Browser, page: Path) -> None:
    opened(browser, page)
    said = browser.evaluate("document.body.textContent")
    for text in (
        HOSTILE,
        "</script><b>bold</b>",
        "Too <i>soft</i>.",
        "Too large. Make it smaller.",
        "score 99.5",
        "drift 0.5, nothing –  (flag --set)",
        "2.5 s",
    ):
        assert text in said
    assert browser.evaluate("window.owned") is None
    assert browser.evaluate("document.querySelectorAll('.label b b, .verdict i, h1 *').length") == 0
    requests = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert requests and all(url.startswith(("file:", "data:", "about:")) for url in requests)
    assert browser.errors() == []


def test_dark_and_light(browser: Browser, page: Path) -> None:
    opened(browser, page)
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = [browser.evaluate(ground) for _ in themes(browser)]
    assert colours == ["rgb(246, 246, 245)", "rgb(22, 22, 22)"]
