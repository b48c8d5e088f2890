"""The check on duplicated subjects: a detector looks at what went in and at what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.batches import Workplace, workplace
from tests.finders import FACE, face, finding, paint, passes
from tilehires import detectors
from tilehires.checks import Finding
from tilehires.detectors import Detection
from tilehires.diffusion.bay import Bay
from tilehires.errors import ExitCode
from tilehires.geometry import Box, Size
from tilehires.memory import Plan
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.check import CheckSettings, CheckStage

TOOLS = Tools(Bay(), Plan(1, "staged", (), 0), Silent())
CHECKED = ("--denoise", "0", "--set", "hires.upscaler=Lanczos", "--set", "check.only=['duplicates']")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    from skimage import data

    picture = np.asarray(Image.fromarray(data.astronaut()[:300, 80:380]).resize((200, 200), Image.Resampling.LANCZOS))
    suit = picture[125:]
    return np.hstack([picture, np.vstack([suit, suit, suit])[:200]]).astype(np.float32) / 255


def twice(picture: np.ndarray) -> np.ndarray:
    """The picture, its left half in the right one as well."""
    left = picture[:, : picture.shape[1] // 2]
    return np.hstack([left, left])


def enlarged(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (800, 400), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def checked(before: np.ndarray, after: np.ndarray, **options: Any) -> list[Finding]:
    found = detectors.find("face")
    size = Size(after.shape[1], after.shape[0])
    settings = CheckSettings(
        only=("duplicates",),
        target=size,
        frame=Box(0, 0, before.shape[1], before.shape[0]),
        cropped=False,
        confidence=0.6,
    )
    return list(CheckStage(settings, found, **options).run(StageResult(after), Source(before), TOOLS).findings)


def test_a_second_head_is_flagged_and_one_that_was_there_is_not(astronaut: np.ndarray) -> None:
    large = enlarged(astronaut)
    [same] = checked(astronaut, large)
    assert (same.severity, same.value) == ("info", 0)
    [second] = checked(astronaut, twice(large))
    assert second.severity == "warning" and second.value == 1 and "1 of 2 detections" in second.message
    assert second.box is not None and second.box.x0 >= 400, "the box names the new one"
    both = twice(astronaut)
    [known] = checked(both, enlarged(both))
    assert known.severity == "info", "two went in, two came out"
    [nothing] = checked(astronaut[:20, :20], large[:40, :40])
    assert nothing.abstained


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    paint(made)
    return made


def findings(place: Workplace) -> list[dict[str, Any]]:
    return [one for one in place.images()["a.png"]["findings"] if one["check"] == "duplicates"]


def grown(pixels: np.ndarray) -> Sequence[Detection]:
    """One face in the input of 96×80, two in the output of twice the size."""
    scale = pixels.shape[1] // 96
    first = face(30 * scale, 20 * scale, 54 * scale, 44 * scale)
    return [first] if scale == 1 else [first, face(100, 100, 140, 140)]


def test_a_run_asks_the_first_detail_passs_detector(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = finding(monkeypatch, where=grown)
    table = passes(FACE + ", denoise=0}")
    assert place.run(*CHECKED, *table).code == 0
    assert finder.seen == [(80, 96, 3), (160, 192, 3), (80, 96, 3)], "the pass, then the check"
    [found] = findings(place)
    assert (found["severity"], found["box"]) == ("warning", [100, 100, 140, 140])
    assert place.images()["a.png"]["flagged"]
    again = place.run(*CHECKED, *table, "--set", "check.duplicates_detector=")
    assert again.code == 0 and [one["value"] for one in findings(place)] == [None]
    assert place.cached_stages("a.png")["check"] is False and place.cached_stages("a.png")["detail.hires"] is True


def test_a_run_without_detail_passes_asks_the_one_that_is_named(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = finding(monkeypatch, where=grown)
    assert place.run(*CHECKED).code == 0 and not finder.seen
    assert place.run(*CHECKED, "--set", "check.duplicates_detector=face").code == 0
    assert [one["severity"] for one in findings(place)] == ["warning"]
    for named, code in (("gone.pt", ExitCode.MISSING), ("nothing", ExitCode.USAGE)):
        ended = place.run(*CHECKED, "--set", f"check.duplicates_detector={named}", output=place.root / "other")
        assert ended.code == code and "hint:" in ended.err


def test_a_toml_of_the_checks_detector_is_read_as_a_passs_is(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = place.root / "mine.toml"
    asked = ("--set", f"check.duplicates_detector={toml}")
    toml.write_text('weights = "builtin:face"\nconfidence = "high"\n')
    ended = place.run(*CHECKED, *asked)
    assert ended.code == ExitCode.USAGE and "mine.toml" in ended.err and "hint:" in ended.err, ended
    finder = finding(monkeypatch, where=grown)
    for said, scores in (("", [0.3, 0.15]), ("confidence = 0.8\n", [0.8, 0.4])):
        toml.write_text('weights = "builtin:face"\n' + said)
        finder.least.clear()
        assert place.run(*CHECKED, *asked).code == 0 and finder.least == scores, said


def test_a_detector_that_throws_makes_it_abstain(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pixels: np.ndarray) -> Sequence[Detection]:
        raise ValueError("of the wrong shape")

    finding(monkeypatch, where=broken)
    assert place.run(*CHECKED, "--set", "check.duplicates_detector=face").code == 0
    [found] = findings(place)
    assert found["value"] is None and "of the wrong shape" in found["message"]
