"""Detail passes through whole runs: the built-in model, detectors of the test's own making, and the astronaut's face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from tests.batches import Workplace, workplace
from tests.finders import FACE, PLAIN, face, finding, paint, passes, pixels, regions
from tilehires.detectors import Detection
from tilehires.errors import ExitCode


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    paint(made)
    return made


def without(place: Workplace) -> np.ndarray:
    plain = place.root / "plain"
    assert place.run(*PLAIN, "--set", "run.bits=16", output=plain).code == 0
    return pixels(place, output=plain)


def test_a_region_is_repaired_and_nothing_else_changes_by_a_bit(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without(place)
    finder = finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + "}"), "--set", "run.bits=16").code == 0
    assert finder.closed == len(finder.seen) == 1
    assert finder.seen[0] == (80, 96, 3), "boxes come from the input image"
    after = pixels(place)
    (region,) = regions(place)
    assert (region["kind"], region["box"], region["fate"], region["stage"]) == (
        "face",
        [60, 40, 108, 88],
        "repaired",
        "detail.hires",
    )
    assert len(region["outline"]) >= 4
    outside = np.ones(before.shape[:2], bool)
    outside[40 - 14 : 88 + 14, 60 - 14 : 108 + 14] = False  # dilated by 4, blurred by a kernel of 11
    assert (after[outside] == before[outside]).all()
    assert (after[50:80, 70:100] != before[50:80, 70:100]).mean() > 0.9, "the region wasn't repainted"


def test_colours_meet_at_the_masks_border(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just inside of the mask's soft edge the picture has the colours of just outside: mean ΔE2000 at most 1."""
    before = without(place)
    finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + ", denoise=0.15}"), "--set", "run.bits=16").code == 0
    after = pixels(place)
    mask = np.zeros(before.shape[:2], np.uint8)
    mask[36:92, 56:112] = 1
    ring = (cv2.dilate(mask, np.ones((5, 5))) - cv2.erode(mask, np.ones((5, 5)))) > 0
    # The tone on the border, without grain: what an eye sees as an edge.
    smooth = [rgb2lab(cv2.GaussianBlur(p, (0, 0), 2)) for p in (after, before)]
    assert float(np.mean(np.asarray(deltaE_ciede2000(*smooth))[ring])) <= 1.0


def test_nothing_found_changes_nothing_and_is_recorded(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = without(place)
    finding(monkeypatch)
    assert place.run(*PLAIN, *passes(FACE + "}"), "--set", "run.bits=16").code == 0
    assert (pixels(place) == before).all()
    assert regions(place) == []
    assert "detail.hires" in place.cached_stages("a.png")


def test_fates_prompts_and_order(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, face(60, 10, 80, 30), face(5, 10, 25, 30), face(40, 50, 44, 54), face(5, 50, 25, 70, 0.3))
    table = FACE + ", sort='left_to_right', drop_size=12, prompt='[SKIP] [SEP] a face, [PROMPT]'}"
    assert place.run(*PLAIN, *passes(table), "--prompt", "a man").code == 0
    told = {tuple(r["box"]): r["fate"] for r in regions(place)}
    assert told[10, 20, 50, 60] == "skipped by prompt"
    assert told[120, 20, 160, 60] == "repaired"
    assert told[80, 100, 88, 108].startswith("too small")
    assert told[10, 100, 50, 140].startswith("below confidence")


def test_a_pass_sees_what_the_one_before_left_and_overlapping_regions_compose(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = finding(monkeypatch, face(20, 20, 44, 44), face(36, 20, 60, 44))
    assert place.run(*PLAIN, *passes(FACE + "}", FACE + ", detect_on='current', same_seed=true}")).code == 0
    assert finder.seen == [(80, 96, 3), (160, 192, 3)]
    assert [r["fate"] for r in regions(place)] == ["repaired"] * 4
    both = pixels(place)
    finding(monkeypatch, face(20, 20, 44, 44))
    one = place.root / "one"
    assert place.run(*PLAIN, *passes(FACE + "}"), output=one).code == 0
    alone = pixels(place, output=one)
    assert (both[60:90, 90:110] != alone[60:90, 90:110]).any()


def test_regions_that_go_together_come_out_as_alone(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, face(4, 4, 24, 24), face(60, 4, 80, 24), face(4, 50, 24, 70))
    for batch in (1, 3):
        output = place.root / f"batch{batch}"
        words = ("--set", f"memory.tile_batch={batch}", "--set", "generate.sampler=Euler a")
        assert place.run(*PLAIN, *passes(FACE + "}"), *words, output=output).code == 0
    one, three = (pixels(place, output=place.root / f"batch{batch}") for batch in (1, 3))
    assert np.abs(one - three).max() <= 1.01 / 255


def test_equal_runs_are_equal_and_a_changed_prompt_redoes_only_what_follows(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + "}")).code == 0
    first = (place.output / "a.png").read_bytes()
    again = place.root / "again"
    assert place.run(*PLAIN, *passes(FACE + "}"), output=again).code == 0
    assert (again / "a.png").read_bytes() == first
    assert place.run(*PLAIN, *passes(FACE + ", prompt='red circle'}")).code == 0
    assert place.cached_stages("a.png") == {"hires": True, "detail.hires": False, "write": False}
    assert (place.output / "a.png").read_bytes() != first


def test_the_box_follows_through_later_steps(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + "}", FACE + ", at='final'}"), "--scale", "4").code == 0
    assert [(r["stage"], r["box"], r["fate"].split(" (")[0]) for r in regions(place)] == [
        ("detail.hires", [120, 80, 216, 176], "repaired"),
        ("detail.final", [120, 80, 216, 176], "already large"),
    ]
    assert list(place.cached_stages("a.png")) == ["hires", "detail.hires", "tiled.1", "detail.final", "write"]


def test_a_mask_eroded_to_nothing_changes_nothing_and_is_told(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without(place)
    finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + ", dilate=-40}"), "--set", "run.bits=16").code == 0
    assert [region["fate"] for region in regions(place)] == ["empty mask"]
    assert (pixels(place) == before).all() and not place.images()["a.png"]["flagged"]


def test_a_detector_that_throws_costs_its_pass_and_not_the_image(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without(place)

    def broken(pixels: np.ndarray) -> Sequence[Detection]:
        raise RuntimeError("a tensor of the wrong shape\nmore")

    finding(monkeypatch, where=broken)
    assert place.run(*PLAIN, *passes(FACE + "}"), "--set", "run.bits=16").code == 0
    image = place.images()["a.png"]
    assert (image["status"], image["flagged"]) == ("done", True)
    assert "a tensor of the wrong shape" in image["findings"][0]["message"]
    assert (pixels(place) == before).all()


def test_a_region_that_comes_back_as_no_numbers_is_left_and_reported(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilehires.diffusion import sampling

    before = without(place)
    stock = sampling.sample

    def poisoned(*given: Any, **named: Any) -> Any:
        made = stock(*given, **named)
        made.latents[:] = float("nan")
        return made

    monkeypatch.setattr(sampling, "sample", poisoned)
    finding(monkeypatch, face(30, 20, 54, 44))
    assert place.run(*PLAIN, *passes(FACE + "}"), "--set", "run.bits=16").code == 0
    assert regions(place)[0]["fate"] == "failed: not finite"
    assert place.images()["a.png"]["flagged"]
    assert (pixels(place) == before).all()


def test_several_passes_give_the_same_bytes_again_and_when_they_were_interrupted(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = passes(FACE + "}", FACE + ", detect_on='current', prompt='a blue square'}")
    found, calls = [face(20, 20, 44, 44), face(50, 30, 74, 54)], 0

    def look(pixels: np.ndarray) -> Sequence[Detection]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return found

    stop_at = 0
    finding(monkeypatch, where=look)
    whole, again = place.root / "whole", place.root / "again"
    for output in (whole, again):
        assert place.run(*PLAIN, *two, output=output).code == 0
    assert (again / "a.png").read_bytes() == (whole / "a.png").read_bytes()
    stop_at, calls = 2, 0
    assert place.run(*PLAIN, *two).code == ExitCode.INTERRUPTED
    assert not (place.output / "a.png").exists()
    assert place.run(*PLAIN, *two).code == 0
    assert calls == 4, "the stage begins anew"
    assert (place.output / "a.png").read_bytes() == (whole / "a.png").read_bytes()


def test_of_a_crowd_only_so_many_are_repaired_also_at_the_borders(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilehires.stages import detail

    monkeypatch.setattr(detail, "MOST", 4)
    corners = [face(0, 0, 12, 12), face(84, 0, 96, 12), face(84, 68, 96, 80), face(95, 79, 96, 80)]
    crowd = [face(x, y, x + 6, y + 6) for x in range(12, 82, 5) for y in range(12, 68, 4)][:196]
    finding(monkeypatch, *corners, *crowd)
    table = FACE.replace("steps=2", "steps=1") + ", drop_size=1}"
    assert place.run(*PLAIN, *passes(table), "--set", "run.bits=16").code == 0
    fates = [region["fate"] for region in regions(place)]
    assert len(fates) == 200
    assert fates.count("repaired") == 4
    assert fates.count("not among the first 4") == 196


def test_the_plan_tells_of_the_passes(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch)
    tables = passes(FACE + ", denoise=0.5}", "{detector='face', at='final', denoise=0, steps=9}")
    ended = place.command("plan", place.input, *PLAIN, *tables)
    assert ended.code == 0, ended.err
    (first,) = [line for line in ended.out.splitlines() if "detail.hires" in line]
    (last,) = [line for line in ended.out.splitlines() if "detail.final" in line]
    assert "192x160" in first
    assert "face: at most 100 regions at 64x64, 2 steps each, 1 at a time" in first
    assert "face: detection only" in last


def test_a_missing_detector_stops_the_run_before_the_first_image(place: Workplace) -> None:
    for name, code in (("hand.pt", ExitCode.MISSING), ("nothing", ExitCode.USAGE)):
        ended = place.run("--detail", name, *PLAIN)
        assert ended.code == code
        assert "hint:" in ended.err
        assert not place.output.joinpath("a.png").exists()
    assert place.run("--detail", "none", *PLAIN).code == 0
    assert list(place.cached_stages("a.png")) == ["hires", "write"]


def test_what_a_detectors_toml_says_counts_and_what_it_must_not_say_is_named(place: Workplace) -> None:
    table = place.root / "eyes.toml"
    table.write_text('weights = "builtin:face"\nconfidence = 0.99\ndenois = 0.2')
    ended = place.run("--detail", str(table), *PLAIN)
    assert ended.code == ExitCode.USAGE
    assert "denois" in ended.err


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(data.astronaut()[10:230, 110:340]).resize((115, 110), Image.Resampling.LANCZOS).save(path)
    return path


def test_detail_face_finds_repairs_and_pastes_the_astronauts_face(place: Workplace, astronaut: Path) -> None:
    words = ("--set", "detail.passes=[{detector='face', steps=1, width=192, height=192}]")
    assert place.run(*PLAIN, *words, source=astronaut).code == 0
    found = place.images()["astronaut.png"]["regions"]
    (face,) = [region for region in found if region["fate"] == "repaired"]
    x0, y0, x1, y1 = face["box"]
    assert abs((x0 + x1) / 2 - 114) < 12
    assert abs((y0 + y1) / 2 - 106) < 14
