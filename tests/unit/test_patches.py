"""Patches of the sequential modes: nothing old shows through, crops are bounded and aligned, seams are covered."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling.grid import elastic_grid
from tilehires.tiling.patches import Easel, Lines, Order, Patch, SeamFix, pieces, seam_patches, tile_patches

ORDERS: tuple[Order, ...] = ("linear", "chess")
MODES: tuple[SeamFix, ...] = ("band", "half", "half+intersections")


def easel(
    width: int = 1000, height: int = 700, *, tile: int = 256, padding: int = 32, blur: float = 8, unit: int = 8
) -> Easel:
    size = Size(width, height)
    return Easel(size, size.ceil_to(64), tile, unit, 8 * unit, padding, blur)


def painted(patches: tuple[Patch, ...], canvas: Size) -> np.ndarray:
    """1 where only what was painted shows, 0 where nothing was: each patch pastes ones over zeros with its mask."""
    picture = np.zeros((canvas.height, canvas.width))
    for patch in patches:
        part = picture[patch.crop.slices]
        part += patch.mask * (1 - part)
    return picture


easels = st.builds(
    easel,
    st.integers(1, 900),
    st.integers(1, 900),
    tile=st.integers(200, 400),
    padding=st.integers(0, 64),
    blur=st.floats(0, 40),
    unit=st.sampled_from([2, 8]),
)


@settings(max_examples=60)
@given(easels, st.sampled_from(ORDERS))
def test_nothing_old_shows_through(one: Easel, order: Order) -> None:
    _, patches = tile_patches(one, order)
    kept = 1 - painted(patches, one.canvas)[Box.of(one.size).slices]
    assert kept.max() < 1e-6, f"{kept.max():.1%} of the old picture stays somewhere"


@settings(max_examples=60)
@given(easels, st.sampled_from(ORDERS))
def test_crops_are_bounded_aligned_and_of_one_shape(one: Easel, order: Order) -> None:
    lines, patches = tile_patches(one, order)
    assert len({patch.crop.size for patch in patches}) == 1
    for patch in patches:
        _check_crop(patch, one)
    boxes = sorted(patch.box for patch in patches)
    assert sum(box.width * box.height for box in boxes) == one.size.pixels, "the tiles themselves don't overlap"
    assert {box.x0 for box in boxes} == {0, *lines.xs} and {box.y0 for box in boxes} == {0, *lines.ys}


@settings(max_examples=60)
@given(easels, st.sampled_from(MODES), st.integers(8, 96))
def test_seam_patches_are_bounded_and_meet_every_boundary(one: Easel, mode: SeamFix, width: int) -> None:
    lines, _ = tile_patches(replace(one, padding=max(one.padding, 32)), "linear")
    patches = seam_patches(one, lines, mode, min(width, one.most // 16 * 16))
    for patch in patches:
        _check_crop(patch, one)
    new = painted(patches, one.canvas)[Box.of(one.size).slices]
    for x in lines.xs:
        assert new[:, x - 1 : x + 1].min() > 0.8, f"the seam at x = {x} isn't painted over everywhere"
    for y in lines.ys:
        assert new[y - 1 : y + 1].min() > 0.8, f"the seam at y = {y} isn't painted over everywhere"


def _check_crop(patch: Patch, one: Easel) -> None:
    crop = patch.crop
    assert crop == crop.clip(one.canvas), "the model must see the canvas and nothing beyond"
    assert crop.x0 % one.unit == crop.y0 % one.unit == 0
    for side, whole in ((crop.width, one.canvas.width), (crop.height, one.canvas.height)):
        assert side <= one.tile or side == whole <= one.tile + 63
        assert side % one.multiple == 0 or side == whole
    seen = patch.box.pad(one.padding).clip(one.size)
    assert seen == seen.clip(one.size) and (crop.x0 <= seen.x0 and crop.x1 >= seen.x1)
    assert crop.y0 <= seen.y0 and crop.y1 >= seen.y1, "a patch sees its padding"
    outside = patch.mask.copy()
    outside[seen.shift(-crop.x0, -crop.y0).slices] = 0
    inside_picture = Box.of(one.size).shift(-crop.x0, -crop.y0).clip(crop.size)
    assert not outside[inside_picture.slices].any(), "nothing is painted beyond the padding"


def test_the_peers_tile_of_512_with_padding_32() -> None:
    lines, patches = tile_patches(easel(2048, 1536, tile=576), "linear")
    assert lines == Lines((512, 1024, 1536), (512, 1024))
    assert {patch.crop.size for patch in patches} == {Size(576, 576)}


def test_linear_goes_row_by_row_and_chess_by_colours() -> None:
    one = easel(560, 560, tile=256)
    orders = {
        order: [(p.box.y0 // 180, p.box.x0 // 180) for p in tile_patches(one, order)[1]]
        for order in ("linear", "chess")
    }
    square = [(y, x) for y in range(3) for x in range(3)]
    assert orders["linear"] == square
    assert orders["chess"] == [p for p in square if sum(p) % 2 == 0] + [p for p in square if sum(p) % 2]


def test_one_tile_where_the_picture_fits() -> None:
    lines, (patch,) = tile_patches(easel(150, 100), "chess")
    assert lines == Lines((), ()) and patch.crop == Box(0, 0, 192, 128)
    assert patch.mask.min() == 1
    assert seam_patches(easel(150, 100), lines, "half+intersections", 64) == ()


def test_each_crossing_has_its_patch() -> None:
    one = easel(800, 600)
    lines, _ = tile_patches(one, "linear")
    half, both = (seam_patches(one, lines, mode, 64) for mode in ("half", "half+intersections"))
    crossings = both[len(half) :]
    centres = {((p.box.x0 + p.box.x1) // 2, (p.box.y0 + p.box.y1) // 2) for p in crossings}
    assert centres == {(x, y) for x in lines.xs for y in lines.ys}
    for patch in crossings:
        x, y = (patch.box.x0 + patch.box.x1) // 2 - patch.crop.x0, (patch.box.y0 + patch.box.y1) // 2 - patch.crop.y0
        assert patch.mask[y - 1 : y + 1, x - 1 : x + 1].min() > 0.99


def test_peers_sequence_of_passes() -> None:
    one = easel(400, 300)
    lines, _ = tile_patches(one, "linear")
    assert len(lines.xs) >= 2 and len(lines.ys) >= 1
    firsts: dict[SeamFix, str] = {"band": "x", "half": "y"}
    for mode, first in firsts.items():
        kinds = ["x" if (p.box.x0 + p.box.x1) // 2 in lines.xs else "y" for p in seam_patches(one, lines, mode, 32)]
        assert kinds[0] == first and sum(a != b for a, b in pairwise(kinds)) == 1, f"{mode}: {kinds}"


def test_bands_are_cut_at_the_tiles_and_where_they_are_too_long() -> None:
    one = easel(1000, 700, padding=16)
    assert pieces(one, (192, 384), 700) == [0, 192, 384, 544, 700]
    assert all(end - start <= one.most for start, end in pairwise(pieces(one, (), 700)))


def test_lines_of_an_overlapping_grid_are_the_middles_of_its_overlaps() -> None:
    grid = elastic_grid(Size(128, 96), tile_max=64, overlap=16, multiple=8).scaled(8)
    lines = Lines.of(grid, Size(1000, 700))
    for x, (first, second) in zip(lines.xs, pairwise(grid.xs), strict=True):
        assert second < x < first + grid.tile.width and x - second == first + grid.tile.width - x
    assert Lines.of(grid, Size(8, 8)) == Lines((), ())


def test_what_cant_be_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="redraw_padding = 120") as caught:
        tile_patches(easel(padding=120), "linear")
    assert "tiled.redraw_padding" in caught.value.hint and "tile_max" in caught.value.hint
    one = replace(easel(padding=16), setting="tiled.seam_padding")
    with pytest.raises(ConfigError, match="seam_width = 240"):
        seam_patches(one, Lines((320,), ()), "band", 240)
    with pytest.raises(ConfigError, match="seam_padding = 128"):
        seam_patches(replace(one, padding=128), Lines((320,), ()), "half", 64)
