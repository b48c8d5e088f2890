"""A reviewer's marks: from the page to a file, from the file to a run, and what they leave behind."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest

from tests.batches import FAST, Workplace, draw, outputs, workplace
from tilehires.batch.marks import Mark, read_marks
from tilehires.errors import ConfigError, ExitCode

SAMPLED = ("--denoise", "0.3", "--steps", "1")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    draw(made.input / "a.png", 24, 16, 1)
    draw(made.input / "sub" / "b.png", 24, 16, 2)
    return made


def marks(place: Workplace, **verdicts: str) -> Path:
    """A file of marks as the page writes it; a for a.png, b for sub/b.png."""
    names = {"a": "a.png", "b": "sub/b.png"}
    path = place.root / "marks.toml"
    images = place.images()
    rows = []
    for key, verdict in verdicts.items():
        digest = (images[names[key]]["output"] or {}).get("sha256", "")
        rows.append(f'[[mark]]\nid = "{names[key]}"\nverdict = "{verdict}"\nsha256 = "{digest}"\n')
    path.write_text("\n".join(rows))
    return path


def test_redo_makes_only_the_marked_image_anew_and_it_stays_so(place: Workplace) -> None:
    assert place.run(*SAMPLED).code == 0
    first = outputs(place.output)
    seed = place.images()["a.png"]["seed"]
    assert place.run("--redo", marks(place, a="redo"), *SAMPLED).code == 0
    redone = outputs(place.output)
    assert redone["a.png"] != first["a.png"]
    assert redone["sub/b.png"] == first["sub/b.png"]
    assert place.images()["a.png"]["seed"] == seed + 1
    assert place.images()["a.png"]["settings"]["generate.seed"]["origin"] == "redone after review"
    assert place.images()["sub/b.png"]["cached"], "what isn't marked stands in the report as it was"
    assert place.run(*SAMPLED).code == 0
    assert outputs(place.output) == redone, "the next plain run undid the redo"
    assert all(image["cached"] for image in place.images().values())


def test_a_redo_takes_this_commands_flags_along_for_good(place: Workplace) -> None:
    assert place.run(*FAST).code == 0
    first = outputs(place.output)
    path = marks(place, b="redo")
    assert place.run("--redo", path, "--denoise", "0", "--set", "hires.upscaler=Nearest").code == 0
    redone = outputs(place.output)
    assert (redone["a.png"] == first["a.png"], redone["sub/b.png"] == first["sub/b.png"]) == (True, False)
    assert place.run("--denoise", "0", "--set", "hires.upscaler=Lanczos").code == 0, "a flag for all counts for all"
    assert outputs(place.output)["sub/b.png"] != redone["sub/b.png"]


def test_a_mark_of_an_older_output_is_left_out_with_a_note(place: Workplace) -> None:
    assert place.run(*FAST).code == 0
    path = marks(place, a="discard")
    path.write_text(path.read_text() + '[[mark]]\nid = "gone.png"\nverdict = "redo"\n')
    assert place.run("--denoise", "0", "--set", "hires.upscaler=Nearest").code == 0
    ended = place.run("--redo", path, "-v", *FAST)
    assert ended.code == 0
    assert "a.png: was made anew since it was marked discard" in ended.out + ended.err
    assert "gone.png: marked redo, but there is no such image here" in ended.out + ended.err
    assert "a.png" in outputs(place.output)


def test_a_discarded_output_is_set_aside_and_not_made_again_until_it_is_marked_redo(place: Workplace) -> None:
    assert place.run(*FAST).code == 0
    first = outputs(place.output)
    assert place.run("--redo", marks(place, a="discard"), *FAST).code == 0
    assert (place.output / "review" / "discarded" / "a.png").read_bytes() == first["a.png"]
    for _ in range(2):
        assert not (place.output / "a.png").exists()
        image = place.images()["a.png"]
        assert image["status"] == "skipped"
        assert "review/discarded" in image["notes"][0]
        assert image["review"] == "discarded" and not image["flagged"]
        aside = place.output / image["output"]["path"]
        assert image["output"]["sha256"] == hashlib.sha256(aside.read_bytes()).hexdigest(), "the page shows it"
        assert place.run(*FAST).code == 0
    assert place.run("--redo", marks(place, a="redo"), *FAST).code == 0, "as the page saves it"
    assert (place.output / "a.png").is_file()


def test_an_accepted_image_is_no_longer_flagged(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilehires.checks.finding import Finding
    from tilehires.stages import check

    flag = Finding("black", "warning", 2, 1, None, "it looks odd")
    monkeypatch.setattr(check, "check", lambda *given, **named: [flag])
    assert place.run("--strict", *FAST).code == ExitCode.FLAGGED
    assert place.run("--redo", marks(place, a="accept", b="accept"), "--strict", *FAST).code == 0
    assert place.report()["summary"]["flagged"] == 0
    image = place.images()["a.png"]
    assert (image["flagged"], image["review"], len(image["findings"])) == (False, "accepted", 1)
    assert place.run("--strict", *FAST).code == 0, "it stays accepted"
    other = ("--denoise", "0", "--set", "hires.upscaler=Nearest")
    assert place.run("--strict", *other).code == ExitCode.FLAGGED, "another output is another matter"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[mark",
        "mark = 3",
        '[[mark]]\nid = "a.png"',
        '[[mark]]\nverdict = "redo"',
        '[[mark]]\nid = "a"\nverdict = "x"',
    ],
)
def test_a_file_that_holds_no_marks_is_a_usage_error(place: Workplace, text: str) -> None:
    path = place.root / "bad.toml"
    path.write_text(text)
    ended = place.run("--redo", path, *FAST)
    assert ended.code == 2
    assert "hint:" in ended.err
    assert place.run("--redo", place.root / "none.toml", *FAST).code == 2


def test_damaged_memory_of_marks_stops_the_run(place: Workplace) -> None:
    assert place.run(*FAST).code == 0
    assert place.run("--redo", marks(place, a="redo"), *FAST).code == 0
    (place.output / ".tilehires" / "marks.json").write_text("{")
    ended = place.run(*FAST)
    assert ended.code == 2
    assert "marks.json" in ended.err


def test_names_that_are_no_text_come_through(tmp_path: Path) -> None:
    path = tmp_path / "marks.toml"
    path.write_text('[[mark]]\nquoted = "odd%FF%20name.png"\nverdict = "accept"\n')
    assert read_marks(path) == (Mark("odd\udcff name.png", "accept"),)
    assert tomllib.loads(path.read_text())["mark"][0]["verdict"] == "accept"
    with pytest.raises(ConfigError):
        read_marks(tmp_path)
