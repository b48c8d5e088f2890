"""The page of a suite's run in a real browser. Skipped only where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.batches import drawing
from tests.browser import Browser, needs_chromium, themes
from tests.browser import browser as browser  # the fixture
from tilehires.regress import results
from tilehires.regress.verdict import Result

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of which one each passed, drifted, has no baseline and crashed."""
    good = drawing(64, 48).astype(np.float32) / 255
    values, limits = {"ssim": 0.9, "delta_e": 0.4}, {"ssim": 0.97, "delta_e": 1.0}
    drifted = Result(
        "drifted", "regression", values=values, limits=limits, failed=("ssim",), made=1 - good, reference=good
    )
    made = [
        Result("a-good", "pass", identical=True, made=good, reference=good),
        Result("b-new", "missing", "Nothing has been approved.", made=good),
        drifted,
        Result("z-crash", "crash", "<b>There</b> is no checkpoint."),
    ]
    return results.write(tmp_path_factory.mktemp("results"), "suite", made)


def test_failures_come_first_and_nothing_is_asked_of_a_network(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = browser.evaluate("[...document.querySelectorAll('article')].map((node) => node.id)")
    assert shown == ["z-crash", "drifted", "b-new", "a-good"]
    assert "<b>There</b>" in browser.evaluate("document.getElementById('z-crash').innerText")
    assert browser.evaluate("[...document.images].every((image) => image.naturalWidth === 64)")
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file:", "data:", "about:")) for url in urls), urls
    assert browser.errors() == []


def test_the_pointer_and_the_keyboard_swap_new_and_approved(browser: Browser, page: Path) -> None:
    browser.open(page, "#drifted")
    approved = "getComputedStyle(document.querySelector('#drifted .swap img + img')).opacity"
    place = browser.evaluate("document.querySelector('#drifted .swap').getBoundingClientRect().toJSON()")
    assert browser.evaluate(approved) == "0"
    browser.mouse("mouseMoved", place["left"] + 10, place["top"] + 10)
    assert browser.evaluate(approved) == "1"
    browser.mouse("mouseMoved", 1, 1)
    assert browser.evaluate(approved) == "0"
    browser.evaluate("document.querySelector('#drifted .swap').focus()")
    assert browser.evaluate(approved) == "1"


def test_every_text_can_be_read_in_dark_and_in_light(browser: Browser, page: Path) -> None:
    for scheme in themes(browser):
        browser.open(page)
        assert browser.unreadable() == [], scheme
