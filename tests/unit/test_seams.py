"""The seam checks: true boundaries from the boxes of all passes, and steps of tone and sharpness at them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.batches import drawing
from tilehires.checks import seam_sharpness, seam_tone
from tilehires.checks.boundaries import Boundary, boundaries, by_pass
from tilehires.checks.planes import Enlarged, blurred, luma, strips
from tilehires.checks.search import search
from tilehires.checks.steps import REACH, bands, differences, null, statistic, z_score
from tilehires.geometry import Box, Size
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.check import CheckSettings, CheckStage
from tilehires.tiling.grid import elastic_grid

TOOLS = Tools(bay=None, plan=None, progress=Silent())  # pyright: ignore[reportArgumentType] - a check needs neither
SIZE = Size(640, 576)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A good output with a little grain of its own, and its input at half the size."""
    before = drawing(SIZE.width // 2, SIZE.height // 2).astype(np.float32) / 255
    enlarged = Enlarged(luma(before), (SIZE.height, SIZE.width)).rows(0, SIZE.height) / 255
    grain = np.random.default_rng(1).normal(0, 0.01, (SIZE.height, SIZE.width))
    after = np.clip(enlarged + blurred(grain.astype(np.float32), 0.7), 0, 1).astype(np.float32)
    return np.repeat(after[..., None], 3, 2), before


@pytest.fixture(scope="module")
def tiles() -> list[Box]:
    return [tile.box for tile in elastic_grid(SIZE, tile_max=256, overlap=64).tiles]


def cells(tiles: list[Box]) -> list[tuple[int, Box]]:
    """The blocks between boundaries, numbered as on a chessboard."""
    lines = boundaries(tiles)
    xs = [0, *sorted({b.position for b in lines if b.axis == "x"}), SIZE.width]
    ys = [0, *sorted({b.position for b in lines if b.axis == "y"}), SIZE.height]
    return [
        ((i + j) % 2, Box(x0, y0, x1, y1))
        for i, (y0, y1) in enumerate(pairwise(ys))
        for j, (x0, x1) in enumerate(pairwise(xs))
    ]


# Where tiles meet


def test_tiles_that_overlap_meet_in_the_middle_and_those_that_touch_at_the_edge() -> None:
    overlapping = [Box(0, 0, 100, 80), Box(60, 0, 160, 80)]
    assert boundaries(overlapping) == (Boundary("x", 80, 0, 80),)
    touching = [Box(0, 0, 100, 80), Box(100, 0, 200, 80), Box(0, 80, 100, 90), Box(100, 80, 200, 90)]
    assert boundaries(touching) == (
        Boundary("x", 100, 0, 80),
        Boundary("x", 100, 80, 90),
        Boundary("y", 80, 0, 100),
        Boundary("y", 80, 100, 200),
    )
    assert boundaries([Box(0, 0, 100, 80)]) == () == boundaries([])


def test_two_passes_keep_their_own_boundaries() -> None:
    first = [Box(0, 0, 100, 80), Box(60, 0, 160, 80)]
    second = [Box(0, 0, 40, 80), Box(40, 0, 80, 80), Box(80, 0, 120, 80), Box(120, 0, 160, 80)]
    assert set(boundaries([*first, *second])) == set(boundaries(first)) | set(boundaries(second))


def test_a_pass_of_one_tile_has_none() -> None:
    tiles = [Box(x, y, x + 60, y + 60) for y in (0, 40) for x in (0, 40)]
    whole = Box(0, 0, 100, 100)
    assert boundaries([whole, *tiles]) == boundaries([*tiles, whole]) == boundaries(tiles)
    assert [len(lines) for lines in by_pass([whole, *tiles, whole, *tiles])] == [0, 4, 0, 4]


def test_the_order_of_the_tiles_after_the_first_does_not_matter(tiles: list[Box]) -> None:
    assert boundaries([tiles[0], *reversed(tiles[1:])]) == boundaries(tiles)


# The planes they are measured on


def test_an_enlarged_strip_is_that_of_the_whole() -> None:
    plane = np.random.default_rng(0).uniform(0, 255, (101, 67)).astype(np.float32)
    for shape in ((202, 134), (330, 219), (77, 51)):
        enlarged = Enlarged(plane, shape)
        whole = enlarged.rows(0, shape[0])
        pieces = np.concatenate([enlarged.rows(*rows) for rows in strips(shape[0], 64)])
        assert np.abs(whole - pieces).max() < 1e-3


def test_a_step_has_its_size_where_it_is() -> None:
    profile = np.zeros((2, 100), np.float32)
    profile[:, 50:] = 3
    made = differences(bands(profile))
    assert made.shape == profile.shape
    assert (made[:, 50] == 3).all() and (made[:, 42:59] == 3).all() and (made[:, 30] == 0).all()
    assert np.isnan(made[:, :REACH]).all() and np.isnan(made[:, 100 - REACH + 1 :]).all()


# What they find


def test_a_good_output_is_within_both_limits(pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]) -> None:
    (tone,), (sharpness,) = seam_tone.seam_tone(*pair, tiles), seam_sharpness.seam_sharpness(*pair, tiles)
    assert not tone.flags and not sharpness.flags, (tone, sharpness)
    assert tone.value and sharpness.value


def test_tiles_two_levels_apart_are_found(pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]) -> None:
    after, before = pair
    spoilt = after.copy()
    for odd, box in cells(tiles):
        spoilt[box.slices] += (odd - 0.5) * 2 / 255
    (found,) = seam_tone.seam_tone(spoilt, before, tiles)
    assert found.severity == "warning" and found.value is not None and found.value > 3
    steps, lines = seam_tone.steps_of(spoilt, before), boundaries(tiles)
    assert z_score(steps, lines) > 5
    assert z_score(seam_tone.steps_of(after, before), lines) < 3


def test_one_tile_off_is_boxed(pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]) -> None:
    after, before = pair
    spoilt = after.copy()
    _, box = cells(tiles)[4]
    spoilt[box.slices] += 6 / 255
    (found,) = seam_tone.seam_tone(spoilt, before, tiles)
    assert found.flags and found.box is not None
    near = box.pad(REACH)
    assert near.x0 <= found.box.x0 and found.box.x1 <= near.x1, (box, found.box)
    assert near.y0 <= found.box.y0 and found.box.y1 <= near.y1, (box, found.box)


def test_blurred_tiles_are_found_by_their_sharpness(pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]) -> None:
    after, before = pair
    soft, spoilt = blurred(after, 0.8), after.copy()
    for odd, box in cells(tiles):
        if odd:
            spoilt[box.slices] = soft[box.slices]
    (found,) = seam_sharpness.seam_sharpness(spoilt, before, tiles)
    assert found.flags, found
    assert not seam_tone.seam_tone(spoilt, before, tiles)[0].flags, "blur is no step in tone"


def test_without_a_boundary_they_abstain(pair: tuple[np.ndarray, np.ndarray]) -> None:
    after, before = pair
    for tiles in ([], [Box.of(SIZE)], [Box(0, 0, 8, 576), Box(8, 0, 640, 576)]):
        for check in (seam_tone.seam_tone, seam_sharpness.seam_sharpness):
            (found,) = check(after, before, tiles)
            assert found.abstained and not found.flags and found.message.startswith("n/a"), found


def test_pseudo_boundaries_keep_away_from_true_ones(pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]) -> None:
    after, before = pair
    lines = boundaries(tiles)
    spoilt = after.copy()
    for odd, box in cells(tiles):
        spoilt[box.slices] += (odd - 0.5) * 20 / 255
    steps = seam_tone.steps_of(spoilt, before)
    others = null(steps, lines, draws=40)
    assert len(others) == 40 and others.max() < 0.5 * statistic(steps, lines)
    assert (others == null(steps, lines, draws=40)).all(), "the draws have a fixed seed"


# Where no grid is known


def test_a_grid_is_found_with_all_of_its_lines(pair: tuple[np.ndarray, np.ndarray]) -> None:
    after, before = pair
    spoilt = after.copy()
    for i, y in enumerate(range(-79, SIZE.height, 96)):
        for j, x in enumerate(range(-79, SIZE.width, 96)):
            spoilt[max(y, 0) : y + 96, max(x, 0) : x + 96] += 2 / 255 * ((i + j) % 2)
    (found,) = seam_tone.seam_tone(spoilt, before, None)
    assert found.flags and found.box is not None, found
    grid = search(seam_tone.steps_of(spoilt, before))
    assert grid is not None
    end = SIZE.width if grid.lines[0].axis == "x" else SIZE.height
    assert np.allclose([line.position for line in grid.lines], range(17, end, 96), atol=2), grid
    assert grid.worst.box(REACH, SIZE) == found.box


def test_edges_of_the_picture_in_a_part_of_some_lines_are_no_grid(pair: tuple[np.ndarray, np.ndarray]) -> None:
    after, before = pair
    built = after.copy()
    for x in range(100, SIZE.width - 60, 150):
        built[200:380, x : x + 60] += 9 / 255  # four towers, alike and in a row
    (found,) = seam_tone.seam_tone(built, before, None)
    assert not found.flags, found


def test_edges_of_the_input_that_came_out_stronger_are_no_grid() -> None:
    """A row of walls from top to bottom, all of them with a little more contrast in the output."""
    rng = np.random.default_rng(0)
    before = rng.normal(0.5, 0.01, (288, 320, 3)).astype(np.float32)
    for x in range(50, 320, 100):
        before[:, x : x + 50] += 0.2
    after = (np.repeat(np.repeat(before, 2, 0), 2, 1) - 0.5) * 1.02 + 0.5
    (found,) = seam_tone.seam_tone(after, before, None)
    assert not found.flags, found
    for i, x in enumerate((117, 267, 417, 567)):
        after[:, x:] += (-1) ** i * 3 / 255
    (found,) = seam_tone.seam_tone(after, before, None)
    assert found.flags and found.box is not None, found
    assert any(found.box.x0 < x < found.box.x1 for x in (117, 267, 417, 567)), found


# The stage


def test_a_seam_of_an_earlier_pass_is_found_in_the_cropped_output(
    pair: tuple[np.ndarray, np.ndarray], tiles: list[Box]
) -> None:
    after, before = pair
    spoilt = after.copy()
    for odd, box in cells(tiles):
        spoilt[box.slices] += (odd - 0.5) * 4 / 255
    crop = Box(32, 64, 608, 512)
    half = [[v // 2 for v in box.as_list()] for box in tiles]
    settings = CheckSettings(
        only=("seam_tone",),
        target=crop.size,
        frame=Box(16, 32, 304, 256),
        cropped=True,
        passes=(("hires", Size(320, 288)), ("tiled.1", SIZE)),
        crop=crop,
    )
    facts = {"hires": {"tiles": half}, "tiled.1": {"tiles": []}}
    (found,) = CheckStage(settings).run(StageResult(spoilt[crop.slices]), Source(before, facts), TOOLS).findings
    assert found.check == "seam_tone" and found.flags, found
    last = {"hires": {"tiles": []}, "tiled.1": {"tiles": [b.shift(-32, -64).clip(crop.size).as_list() for b in tiles]}}
    (same,) = CheckStage(settings).run(StageResult(spoilt[crop.slices]), Source(before, last), TOOLS).findings
    assert same.value == pytest.approx(found.value, rel=0.05)
