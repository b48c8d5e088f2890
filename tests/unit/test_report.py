"""The report: reading report.json, and a page that shows hostile text without interpreting it."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from tilehires.cli import main
from tilehires.errors import ExitCode, RunError
from tilehires.report import load, sweep, write_page
from tilehires.report.page import SCRIPTS

HOSTILE = [
    '<script>alert("x")<_script>.png',
    "</script><!--.png",
    "new\nline 'and' \"quotes\" & ünï 猫.png",
    "100%25 #1?.png",
    "javascript:alert(1).png",
    "{{ 7*7 }}{% raw %}.png",
    "not-utf8-\udcff.png",
]


def image(name: str, **changes: Any) -> dict[str, Any]:
    """One image of a report, done without a flag unless `changes` say otherwise."""
    body = {
        "id": name,
        "input": {"path": name, "size": [64, 48], "sha256": hashlib.sha256(repr(name).encode()).hexdigest()},
        "output": {"path": name, "size": [128, 96], "sha256": hashlib.sha256(repr(name).encode() + b"o").hexdigest()},
        "status": "done",
        "cached": False,
        "flagged": False,
        "error": None,
        "seed": 1,
        "settings": {"hires.scale": {"value": 2.0, "origin": "flag --scale"}},
        "stages": [],
        "regions": [],
        "findings": [],
        "notes": [],
    }
    return body | changes


def report(*images: dict[str, Any], **run: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "run": {"input_folder": "../../input", "output_folder": "..", **run},
        "summary": {"done": len(images)},
        "images": list(images),
    }


class Elements(HTMLParser):
    """What a browser would see: every element, and the text of the data element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and attributes.get("id") == "data":
            self.data += data


def parsed(page: Path) -> Elements:
    return Elements(page.read_text(encoding="utf-8"))


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(parsed(page).data)


def save(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 40, 40)).save(path, **options)
    return path


def test_hostile_names_add_no_element_and_arrive_whole(tmp_path: Path) -> None:
    plain = parsed(write_page(report(image("a.png")), tmp_path / "plain"))
    hostile = write_page(report(*(image(name) for name in HOSTILE)), tmp_path / "hostile")
    assert [tag for tag, _ in parsed(hostile).elements] == [tag for tag, _ in plain.elements], (
        "a file name became markup: it must only ever be inside the JSON, with < > & escaped"
    )
    assert [entry["id"] for entry in data_of(hostile)["images"]] == HOSTILE


def test_hostile_text_everywhere_stays_text(tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)>\u2028"
    body = image(
        "a.png",
        flagged=True,
        error={"type": bad, "message": bad, "hint": bad},
        settings={bad: {"value": bad, "origin": bad}},
        findings=[{"check": bad, "severity": bad, "value": 1.0, "limit": 0.5, "box": None, "message": bad}],
        regions=[{"kind": bad, "box": [0, 0, 1, 1], "score": 1.0, "fate": bad}],
        stages=[{"name": bad, "fingerprint": bad, "seconds": 1.0, "cached": False, "facts": {bad: bad}}],
    )
    page = write_page(report(body, command=bad, versions={bad: bad}), tmp_path)
    assert page.read_text(encoding="utf-8").count("</script>") == 2, "text from the report ended a script element"
    assert not [tag for tag, _ in parsed(page).elements if tag == "img" and _.get("src")]


@pytest.mark.parametrize("name", HOSTILE)
def test_urls_lead_to_the_file(tmp_path: Path, name: str) -> None:
    entry = data_of(write_page(report(image(name)), tmp_path / "output"))["images"][0]
    for url, folder in ((entry["before"], "../../input/"), (entry["after"], "../")):
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", url), f"{url!r}: percent-encode it"
        assert unquote(url, errors="surrogateescape") == folder + name


def test_absolute_input_folder_becomes_a_file_url(tmp_path: Path) -> None:
    body = report(image("a.png"), input_folder=str(tmp_path / "in put"))
    entry = data_of(write_page(body, tmp_path / "output"))["images"][0]
    assert entry["before"] == (tmp_path / "in put").as_uri() + "/a.png"


def test_without_input_folder_the_page_has_no_before_and_says_so(tmp_path: Path) -> None:
    body = report(image("a.png"))
    del body["run"]["input_folder"]
    data = data_of(write_page(body, tmp_path))
    assert data["images"][0]["before"] is None
    assert data["has_inputs"] is False


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = write_page(report(image("a.png")), tmp_path)
    html = page.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]+", html), "a link out of the page"
    metas = [attributes for tag, attributes in parsed(page).elements if tag == "meta"]
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_numbers_survive_javascript(tmp_path: Path) -> None:
    finding = {"check": "finite", "severity": "error", "value": float("nan"), "limit": float("inf"), "box": None}
    entry = data_of(write_page(report(image("a.png", seed=2**63 - 1, findings=[finding])), tmp_path))["images"][0]
    assert entry["seed"] == str(2**63 - 1), "JavaScript rounds integers beyond 2^53: write them as text"
    assert (entry["findings"][0]["value"], entry["findings"][0]["limit"]) == ("nan", "inf"), "JSON has no NaN"


def test_equal_settings_are_stored_once(tmp_path: Path) -> None:
    shared = {f"section.key{i}": {"value": i, "origin": "default"} for i in range(60)}
    own = {**shared, "section.key0": {"value": 9, "origin": "flag --x"}}
    fewer = {key: value for key, value in shared.items() if key != "section.key1"}
    images = [image("a.png", settings=shared), image("b.png", settings=own), image("c.png", settings=fewer)]
    data = data_of(write_page(report(*images), tmp_path))
    for entry, settings in zip(data["images"], (shared, own, fewer), strict=True):
        joined = {**data["settings"], **entry["settings"]}
        assert {key: value for key, value in joined.items() if key not in entry["unset"]} == settings
    assert [len(entry["settings"]) for entry in data["images"]] == [0, 1, 0]


def test_counts_are_those_of_the_filters(tmp_path: Path) -> None:
    images = (
        image("a.png"),
        image("b.png", flagged=True, cached=True),
        image("c.png", status="failed", output=None),
        image("d.txt", status="skipped", output=None),
    )
    page = write_page(report(*images), tmp_path)
    assert data_of(page)["counts"] == {"all": 4, "failed": 1, "flagged": 1, "done": 2, "cached": 1, "skipped": 1}
    assert "<title>tilehires report · 4 images, 1 failed, 1 flagged</title>" in page.read_text(encoding="utf-8")


def test_an_empty_report_makes_a_page(tmp_path: Path) -> None:
    assert data_of(write_page(report(), tmp_path))["images"] == []


def test_thumbnails_are_small_and_made_once(tmp_path: Path) -> None:
    save(tmp_path / "output" / "a.png", (1024, 512))
    body = report(image("a.png"))
    page = write_page(body, tmp_path / "output")
    thumb = page.parent / data_of(page)["images"][0]["thumb"]
    with Image.open(thumb) as picture:
        assert picture.size == (256, 128)
    made = thumb.stat().st_mtime_ns
    write_page(body, tmp_path / "output")
    assert thumb.stat().st_mtime_ns == made, "an unchanged image got a new thumbnail: rebuilding must be cheap"


def test_a_changed_image_gets_a_new_thumbnail_and_the_old_one_goes(tmp_path: Path) -> None:
    save(tmp_path / "output" / "a.png")
    first, second = image("a.png"), image("a.png")
    second["output"] = second["output"] | {"sha256": "f" * 64}
    page = write_page(report(first), tmp_path / "output")
    old = page.parent / data_of(page)["images"][0]["thumb"]
    stranger = old.parent / "mine.webp"
    stranger.write_bytes(b"")
    write_page(report(second), tmp_path / "output")
    new = page.parent / data_of(page)["images"][0]["thumb"]
    assert new.is_file()
    assert not old.exists(), "a thumbnail nobody uses was kept"
    assert stranger.exists(), "a file that isn't ours was deleted"


def test_what_was_deleted_since_is_said_by_the_page_and_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("whole.png", "no-input.png"):
        save(tmp_path / "output" / name)
    for name in ("whole.png", "no-output.png"):
        save(tmp_path / "input" / name)
    body = report(*(image(name) for name in ("whole.png", "no-input.png", "no-output.png", "neither.png")))
    notes = {one["id"]: one["notes"] for one in data_of(write_page(body, tmp_path / "output"))["images"]}
    assert notes == {
        "whole.png": [],
        "no-input.png": ["The input is gone: moved or deleted since."],
        "no-output.png": ["The output is gone: moved or deleted since."],
        "neither.png": ["The input and the output are gone: moved or deleted since."],
    }
    (tmp_path / "output" / "report" / "report.json").write_text(json.dumps(body))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "output")])
    said = capsys.readouterr().err.splitlines()
    assert not ended.value.code
    assert said == [f"{name}: {note}" for name, lines in notes.items() for note in lines]


def test_a_failed_image_shows_its_input(tmp_path: Path) -> None:
    save(tmp_path / "input" / "a.png")
    entry = data_of(write_page(report(image("a.png", status="failed", output=None)), tmp_path / "output"))["images"][0]
    assert entry["thumb"] is not None
    assert entry["after"] is None


def test_what_cannot_be_decoded_has_no_thumbnail_and_stops_nothing(tmp_path: Path) -> None:
    whole = save(tmp_path / "output" / "cut.png", (400, 400)).read_bytes()
    (tmp_path / "output" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "output" / "text.png").write_text("no image")
    (tmp_path / "output" / "empty.png").write_bytes(b"")
    names = ("cut.png", "text.png", "empty.png", "gone.png")
    page = write_page(report(*(image(name) for name in names)), tmp_path / "output")
    assert [entry["thumb"] for entry in data_of(page)["images"]] == [None] * 4
    assert not list((tmp_path / "output" / "report").rglob(".tilehires-tmp-*"))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_has_a_thumbnail_with_its_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "output" / ("a.tif" if mode == "CMYK" else "a.png")
    path.parent.mkdir()
    if mode == "I;16":
        picture = Image.fromarray(np.full((40, 60), 0x8000, np.uint16))
    else:
        grey = Image.new("RGB", (60, 40), (128, 128, 128))
        picture = grey.quantize(4) if mode == "P" else grey.convert(mode, dither=Image.Dither.NONE)
    picture.save(path)
    page = write_page(report(image(path.name)), tmp_path / "output")
    with Image.open(page.parent / data_of(page)["images"][0]["thumb"]) as thumb:
        red = np.asarray(thumb.convert("RGB"))[20, 30, 0]
    assert red == 255 if mode == "1" else abs(int(red) - 128) < 4, f"{mode}: grey 128 became {red}"


def test_thumbnails_stand_upright_and_keep_the_profile(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    save(tmp_path / "output" / "a.jpg", (80, 40), exif=exif, icc_profile=profile)
    page = write_page(report(image("a.jpg")), tmp_path / "output")
    with Image.open(page.parent / data_of(page)["images"][0]["thumb"]) as thumb:
        assert thumb.size == (40, 80)
        assert thumb.info["icc_profile"] == profile
        assert not thumb.getexif()


def test_pillows_limits_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "output" / "a.png", (256, 256))
    page = write_page(report(image("a.png")), tmp_path / "output")
    assert data_of(page)["images"][0]["thumb"] is not None, "an image beyond Pillow's limit got no thumbnail"
    assert Image.MAX_IMAGE_PIXELS == 100


def write_report(output: Path, text: str) -> Path:
    (output / "report").mkdir(parents=True)
    (output / "report" / "report.json").write_text(text, encoding="utf-8")
    return output


def test_load_reads_what_was_written(tmp_path: Path) -> None:
    body = report(image("a.png"), image("b.png", status="failed", output=None))
    assert load(write_report(tmp_path, json.dumps(body))) == body


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "isn't valid JSON"),
        ("{", "isn't valid JSON"),
        ("[" * 100_000, "isn't valid JSON"),
        ("[]", "isn't an object"),
        ("{}", '"version" is missing'),
        (json.dumps(report() | {"images": {}}), '"images" has the wrong type'),
        (json.dumps(report() | {"images": [3]}), "images[0]: not an object"),
        (json.dumps(report(image("a.png", status="odd"))), "images[0]"),
        (json.dumps(report(image("a.png", output={"size": 3}))), '"output" names no file'),
        (json.dumps(report(image("a.png", output={"path": "a.png"}))), '"output" names no file'),
        (json.dumps(report(image("a.png", input={"path": "a.png", "size": [8, None]}))), '"input" names no file'),
        (json.dumps(report(image("a.png", findings=["soft"]))), '"findings" has the wrong type'),
        (json.dumps(report(image("a.png", notes=3))), '"notes" has the wrong type'),
        (json.dumps(report(image("a.png"), input_folder=3)), '"input_folder" of the run is no text'),
        (json.dumps(report() | {"version": 2}), "schema version 2"),
    ],
)
def test_load_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RunError, match=re.escape(said)) as caught:
        load(write_report(tmp_path, text))
    assert caught.value.hint, "the error doesn't say what to do next"
    assert caught.value.exit_code == ExitCode.USAGE


def test_load_without_a_report_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no report") as caught:
        load(tmp_path)
    assert "tilehires run" in caught.value.hint
    write_report(tmp_path, json.dumps(report()))
    with pytest.raises(RunError) as caught:
        load(tmp_path / "report")
    assert caught.value.hint.endswith(f"tilehires report {tmp_path}")


def test_load_then_write_makes_the_same_page(tmp_path: Path) -> None:
    body = report(*(image(name) for name in HOSTILE))
    page = write_page(body, tmp_path)
    first = page.read_bytes()
    (tmp_path / "report" / "report.json").write_text(json.dumps(body), encoding="utf-8")
    assert write_page(load(tmp_path), tmp_path).read_bytes() == first


def test_page_sources_stay_readable_and_safe() -> None:
    package = Path(write_page.__code__.co_filename).parent
    for path in [*package.glob("*.js"), *package.glob("*.css"), *package.glob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, f"{path.name} is longer than 400 lines: split it by what it does"
    for name in {*SCRIPTS, *sweep.SCRIPTS}:
        text = (package / name).read_text(encoding="utf-8")
        for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "</script"):
            assert risky not in text, f"{name} uses {risky}: text goes in as text nodes, nothing is fetched"
