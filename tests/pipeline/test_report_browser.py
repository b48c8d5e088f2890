"""The report in a real browser: headless Chromium over its debugging pipe. Skipped only where there is no Chromium."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import PATIENCE, Browser, needs_chromium, themes
from tests.browser import browser as browser  # the fixture
from tilehires.batch.marks import Mark, read_marks
from tilehires.report import write_page

pytestmark = needs_chromium

HOSTILE = "odd/<img src=x onerror='window.owned=1'> \"q\" & 100%25 #1?\nünï.png"


def finding(severity: str, box: list[int] | None) -> dict[str, Any]:
    return {"check": "seam", "severity": severity, "value": 2.5, "limit": 1.66, "box": box, "message": "A tile border."}


def region(kind: str, fate: str) -> dict[str, Any]:
    outline = [[40, 40], [80, 44], [80, 90], [36, 90]]
    return {"kind": kind, "box": [40, 40, 80, 90], "score": 0.9, "fate": fate, "stage": "hires", "outline": outline}


def make(folder: Path) -> Path:
    """A small run on disk: five images of which one failed, two are flagged, one has a hostile name."""
    images = []
    for name, size in (
        ("plain.png", 300),
        ("warned.png", 1600),
        ("wrong.png", 300),
        ("broken.png", 300),
        (HOSTILE, 300),
    ):
        for root, factor in (("input", 1), ("output", 2)):
            path = folder / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize((size * factor, size * factor)).convert("RGB").save(path)
        done = name != "broken.png"
        images.append(
            {
                "id": name,
                "input": {"path": name, "size": [size, size], "sha256": name + "i"},
                "output": {"path": name, "size": [size * 2, size * 2], "sha256": name + "o"} if done else None,
                "status": "done" if done else "failed",
                "error": None
                if done
                else {"type": "ImageError", "message": "It is cut off.", "hint": "Copy it again."},
                "settings": {"hires.scale": {"value": 2, "origin": "flag --scale"}},
                "stages": [{"name": "hires", "seconds": 3.0, "facts": {"tiles": [[0, 0, 64, 64], [48, 0, 112, 64]]}}],
                "findings": [],
            }
        )
    images[0]["regions"] = [region("face", "repaired"), region("hand", "below confidence (0.20 of 0.30)")]
    images[0]["stages"][0]["facts"]["regions"] = images[0]["regions"]
    images[1] |= {"flagged": True, "findings": [finding("warning", [100, 100, 200, 400])]}
    halo = {**finding("warning", None), "check": "halo"}
    images[2] |= {"flagged": True, "findings": [finding("info", None), halo, finding("error", [10, 10, 60, 60])]}
    images[0]["score"], images[1]["score"] = 40.0, 99.7
    first = {"changes": {}, "score": 99.9, "flags": ["seam"], "fingerprint": "1", "kept": False, "why": ""}
    why = "Its score is lower: 99.7, the other's 99.9."
    images[1]["attempts"] = [
        first,
        {**first, "changes": {"hires.denoise": 0.35}, "score": 99.7, "fingerprint": "2", "kept": True, "why": why},
    ]
    run = {"input_folder": "../../input", "output_folder": "..", "device": "cpu"}
    return write_page({"version": 1, "run": run, "summary": {}, "images": images}, folder / "output")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("run"))


NAMES = "[...document.querySelectorAll('#grid .card')].map((card) => card.title)"
ZOOM = "document.getElementById('zoom').textContent"
OPENED = "document.getElementById('detail').hidden ? null : document.getElementById('detail-name').textContent"
LOADED = "['before', 'after'].every((id) => document.getElementById(id).naturalWidth > 0)"


def test_failures_and_flags_come_first(browser: Browser, page: Path) -> None:
    browser.open(page)
    names = browser.evaluate(NAMES)
    assert names[:3] == ["broken.png", "wrong.png", "warned.png"]
    assert names[3].startswith("odd/<img src=x")
    assert browser.errors() == []


def test_a_card_names_the_file_and_its_worst_finding(browser: Browser, page: Path) -> None:
    browser.open(page)
    card = "[...document.querySelectorAll('.card')].find((card) => card.title.startsWith('%s'))"
    assert browser.evaluate(card % "wrong" + ".querySelector('.badge').textContent") == "seam +1"
    lines = card % "odd/" + ".querySelectorAll(':scope > .name, :scope > .muted')"
    assert browser.evaluate(f"[...{lines}].map((n) => n.textContent)")[:2] == [
        HOSTILE.partition("/")[2].replace("\n", "\ufffd"),
        "odd",
    ]


def test_nothing_is_cut_off_on_a_narrow_screen(browser: Browser, page: Path) -> None:
    window = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.send("Emulation.setDeviceMetricsOverride", window)
    try:
        for fragment in ("", "#image/warned.png"):
            browser.open(page, fragment)
            shown = "[...document.querySelectorAll('button, select, input, a')].filter((n) => n.offsetWidth)"
            out = f"{shown}.filter((n) => n.getBoundingClientRect().right > 400).map((n) => n.id)"
            assert browser.evaluate(out) == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= 400
        rows = "new Set([...document.querySelectorAll('.tools button')].map((n) => n.offsetTop)).size"
        assert browser.evaluate(rows) == 1
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


def test_every_text_can_be_read_in_dark_and_in_light(browser: Browser, page: Path) -> None:
    grounds = set()
    for scheme in themes(browser):
        for fragment in ("", "#image/broken.png", "#image/plain.png", "#image/warned.png"):
            browser.open(page, fragment)
            assert browser.unreadable() == [], (scheme, fragment)
        grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2, "one scheme looks like the other"


def test_hostile_name_shows_as_text_and_its_pictures_load(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("[...document.querySelectorAll('.card')].find((card) => card.title.startsWith('odd/')).click()")
    browser.until(LOADED)
    assert "<img src=x onerror=" in browser.evaluate(OPENED)
    assert browser.evaluate("window.owned") is None
    assert browser.errors() == []


def test_filters_and_sorting(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('[data-show=flagged]').click()")
    assert browser.evaluate(NAMES) == ["wrong.png", "warned.png"]
    browser.evaluate("document.querySelector('[data-show=all]').click()")
    browser.key("/")
    for letter in "cut":
        browser.key(letter)
    assert browser.evaluate(NAMES) == ["broken.png"], "the filter looks at error messages too"
    browser.key("Escape")
    browser.evaluate(
        "(s => { s.value = 'pixels'; s.dispatchEvent(new Event('change')); })(document.getElementById('sort'))"
    )
    assert browser.evaluate(NAMES)[0] == "warned.png"
    browser.evaluate(
        "(s => { s.value = 'score'; s.dispatchEvent(new Event('change')); })(document.getElementById('sort'))"
    )
    assert browser.evaluate(NAMES)[:2] == ["warned.png", "plain.png"], "those without one come last"


def test_keys_walk_zoom_and_close(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key("ArrowRight")  # onto the first card
    browser.key("ArrowRight")
    browser.evaluate("document.activeElement.click()")
    browser.until(f"({OPENED}) === 'wrong.png'")
    browser.key("ArrowRight")
    browser.until(f"({OPENED}) === 'warned.png' && {LOADED}")
    fitted = browser.evaluate(ZOOM)
    browser.key("z")
    assert browser.evaluate(ZOOM) == "100 %" != fitted
    browser.key(" ")
    assert browser.evaluate(ZOOM) == fitted
    browser.key("Escape")
    assert browser.evaluate(OPENED) is None
    assert browser.evaluate("document.activeElement.title") == "warned.png", "closing puts the focus back on the card"


def test_both_pictures_fill_one_box_at_every_zoom(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/warned.png")
    browser.until(LOADED)
    boxes = "['before', 'after', 'overlay'].map((id) => document.getElementById(id).getBoundingClientRect().toJSON())"
    for key in ("", "z", "+"):
        if key:
            browser.key(key)
        before, after, overlay = browser.evaluate(boxes)
        assert before == after == overlay, f"the pictures lie apart after the key {key!r}"
    browser.key("z")
    _, after, _ = browser.evaluate(boxes)
    assert after["width"] == 3200 / browser.evaluate("devicePixelRatio")


def test_dragging_moves_the_divider_and_the_picture(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/warned.png")
    browser.until(LOADED)
    stage = browser.evaluate("document.getElementById('stage').getBoundingClientRect().toJSON()")
    middle, row = stage["left"] + stage["width"] / 2, stage["top"] + stage["height"] / 2

    def drag(x0: float, x1: float, y: float) -> None:
        browser.mouse("mousePressed", x0, y)
        browser.mouse("mouseMoved", x1, y, buttons=1)
        browser.mouse("mouseReleased", x1, y)

    drag(middle, stage["left"] + stage["width"] / 4, row)
    assert browser.evaluate("document.getElementById('split').getAttribute('aria-valuenow')") == "25"
    assert "75%" in browser.evaluate("document.getElementById('before-layer').style.clipPath")
    browser.key("z")
    left = "document.getElementById('after').getBoundingClientRect().left"
    before = browser.evaluate(left)
    assert before == round(before), "at 100 % the picture must lie on whole screen pixels"
    drag(middle, middle - 100, row + 50)
    assert browser.evaluate(left) == before - 100
    assert browser.evaluate("document.getElementById('split').getAttribute('aria-valuenow')") == "25"


def test_holding_b_shows_only_the_input(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/plain.png")
    browser.until(LOADED)
    clip = "document.getElementById('before-layer').style.clipPath"
    browser.key("b", up=False)
    assert "50%" not in browser.evaluate(clip)
    browser.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": "b"})
    assert "50%" in browser.evaluate(clip)


def test_findings_are_boxed_and_cropped(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/wrong.png")
    browser.until(LOADED)
    shown = "[...document.querySelectorAll('#overlay .finding')].map((n) => getComputedStyle(n).visibility)"
    assert browser.evaluate(shown) == ["visible"]
    assert browser.evaluate("document.querySelectorAll('#panel canvas').length") == 2
    browser.key("x")
    assert browser.evaluate(shown) == ["hidden"]
    browser.evaluate("document.querySelector('.finding-button:not(:disabled)').click()")
    assert browser.evaluate(ZOOM) == "400 %", "a click on a finding goes to its place"


def test_detections_are_boxed_outlined_and_listed_with_their_fates(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/plain.png")
    browser.until(LOADED)
    drawn = "[...document.querySelectorAll('#overlay %s')].map((n) => %s)"
    shown = "getComputedStyle(n).visibility"
    assert browser.evaluate(drawn % (".region", shown)) == ["visible"] * 2
    assert browser.evaluate(drawn % ("polygon.mask", shown)) == ["visible"], "only what was repaired has a mask"
    points = browser.evaluate(drawn % ("polygon.mask", "[...n.points].map((p) => [p.x, p.y])"))
    assert points == [region("", "")["outline"]]
    corner = browser.evaluate(drawn % (".region", "[n.getAttribute('x'), n.getAttribute('width')]"))[0]
    assert corner == ["40", "40"]
    listed = browser.evaluate("document.getElementById('panel').textContent")
    for said in ("face", "repaired", "hand", "below confidence (0.20 of 0.30)"):
        assert said in listed
    assert "[object Object]" not in listed
    browser.evaluate(
        "[...document.querySelectorAll('#panel button.row')].find((b) => /hand/.test(b.textContent)).click()"
    )
    assert browser.evaluate(ZOOM) == "400 %", "a click on a detection goes to its place"


def test_attempts_are_listed_with_what_they_changed_and_why_one_was_kept(browser: Browser, page: Path) -> None:
    attempts = (
        "[...document.querySelectorAll('#panel .attempts li')].map((n) => [...n.children].map((m) => m.textContent))"
    )
    browser.open(page, "#image/warned.png")
    assert browser.evaluate(attempts) == [
        ["First", "flagged: seam · score 99.9"],
        [
            "Second, milder",
            "kept",
            "flagged: seam · score 99.7",
            "hires.denoise = 0.35",
            "Its score is lower: 99.7, the other's 99.9.",
        ],
    ]
    browser.open(page, "#image/plain.png")
    assert browser.evaluate(attempts) == []


def test_a_failed_image_shows_its_error_and_hint(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/broken.png")
    text = browser.evaluate("document.getElementById('panel').innerText")
    assert "It is cut off." in text
    assert "Copy it again." in text
    assert browser.evaluate("document.getElementById('split').hidden") is True


def test_a_missing_picture_is_said_and_the_other_stays(browser: Browser, tmp_path: Path) -> None:
    page = make(tmp_path)
    (tmp_path / "input" / "plain.png").unlink()
    browser.open(page, "#image/plain.png")
    browser.until("!document.getElementById('stage-note').hidden")
    assert "input isn't there" in browser.evaluate("document.getElementById('stage-note').textContent")
    assert browser.evaluate("document.getElementById('after-layer').hidden") is False
    (tmp_path / "output" / "wrong.png").unlink()
    browser.open(page, "#image/wrong.png")
    browser.until("document.getElementById('after-layer').hidden && document.getElementById('before').naturalWidth > 0")
    rect = "document.querySelector('#overlay .finding').getBoundingClientRect()"
    place = f"[{rect}.left, {rect}.top].map((v, i) => v - document.getElementById('before').getBoundingClientRect()['xy'[i]])"
    scale = browser.evaluate("document.getElementById('before').getBoundingClientRect().width / 600")
    assert browser.evaluate(place) == pytest.approx([10 * scale] * 2, abs=1.5), "the box has left its place"


def test_a_reviewers_word_stands_on_the_page_and_a_discarded_image_can_be_marked_again(
    browser: Browser, tmp_path: Path
) -> None:
    image = {
        "id": "a.png",
        "input": {"path": "a.png", "size": [8, 8], "sha256": "i"},
        "output": {"path": "review/discarded/a.png", "size": [16, 16], "sha256": "o"},
        "status": "skipped",
        "review": "discarded",
        "notes": ["Discarded in review."],
    }
    accepted = {**image, "id": "b.png", "status": "done", "review": "accepted", "findings": [finding("warning", None)]}
    run = {"input_folder": "../../input", "output_folder": ".."}
    page = write_page({"version": 1, "run": run, "summary": {}, "images": [image, accepted]}, tmp_path / "output")
    browser.open(page, "#image/b.png")
    badge = "[c.title, c.querySelector('.badge').textContent]"
    badges = f"Object.fromEntries([...document.querySelectorAll('.card')].map((c) => {badge}))"
    assert browser.evaluate(badges) == {"a.png": "Discarded", "b.png": "Accepted"}
    assert "Accepted in review" in browser.evaluate("document.getElementById('panel').textContent")
    browser.open(page, "#image/a.png")
    browser.key("r")
    saved = tmp_path / "marks.toml"
    saved.write_text(browser.evaluate("marks.toml()"))
    assert read_marks(saved) == (Mark("a.png", "redo", "o"),)


def test_only_files_are_asked_for(browser: Browser, page: Path) -> None:
    browser.open(page, "#image/plain.png")
    browser.until(LOADED)
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith(("file:", "data:", "about:")) for url in urls), f"the page went to the network: {urls}"


def test_a_thousand_images_load_at_once(browser: Browser, tmp_path: Path) -> None:
    values = {f"section.key{i}": {"value": i, "origin": "default"} for i in range(60)}
    images = [
        {
            "id": f"photos/{i:04d}.png",
            "input": {"path": f"{i}.png", "size": [512, 512], "sha256": ""},
            "output": {"path": f"{i}.png", "size": [2048, 2048], "sha256": ""},
            "status": "done",
            "settings": values | {"generate.seed": {"value": i, "origin": "image metadata"}},
            "stages": [{"name": "tiled.1", "seconds": 9.0, "facts": {"tiles": [[x, 0, x + 9, 9] for x in range(60)]}}],
        }
        for i in range(1000)
    ]
    run = {"input_folder": "../../input", "output_folder": ".."}
    page = write_page({"version": 1, "run": run, "summary": {}, "images": images}, tmp_path)
    assert page.stat().st_size < 4e6, "the page stores what all images share more than once"
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('#grid .card').length") == 1000
    browser.evaluate("window.from = performance.now(); filter('09'); document.body.offsetHeight")
    took = browser.evaluate("performance.now() - window.from")
    assert took < 2000, f"filtering 1,000 images took {took:.0f} ms"
    assert browser.errors() == []


def test_marks_are_made_by_keys_remembered_and_saved_as_toml(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.send("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}, session=None)
    browser.open(page, "#image/wrong.png")
    browser.key("r")
    browser.key("ArrowRight")
    browser.key("a")
    browser.key("a")  # taken back
    browser.key("d")
    browser.key("Escape")
    browser.evaluate("[...document.querySelectorAll('.card')].find((card) => card.title.startsWith('odd/')).click()")
    browser.evaluate("document.querySelector('[data-verdict=accept]').click()")
    browser.key("Escape")
    browser.open(page)
    shown = (
        "Object.fromEntries([...document.querySelectorAll('.card[data-mark]')].map((c) => [c.title, c.dataset.mark]))"
    )
    marked = browser.evaluate(shown)
    assert marked["wrong.png"] == "redo", "a reload has lost the marks"
    assert marked["warned.png"] == "discard"
    assert len(marked) == 3
    browser.evaluate("document.querySelector('[data-show=marked]').click()")
    assert len(browser.evaluate(NAMES)) == 3
    browser.evaluate("document.getElementById('save').click()")
    saved = tmp_path / "marks.toml"
    end = time.monotonic() + PATIENCE
    while not saved.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    verdicts = {(mark.id, mark.verdict, mark.sha256) for mark in read_marks(saved)}
    assert verdicts == {
        ("wrong.png", "redo", "wrong.pngo"),
        ("warned.png", "discard", "warned.pngo"),
        (HOSTILE, "accept", HOSTILE + "o"),
    }
    assert browser.errors() == []
