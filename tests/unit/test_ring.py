"""Canvases that close to a ring: grids, windows and the lock go around it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilehires.errors import ConfigError
from tilehires.geometry import OPEN, Box, Size, Wrap
from tilehires.stages.alpha import resized_alpha
from tilehires.stages.route import Route, Step
from tilehires.tiling import lock
from tilehires.tiling.accumulator import Accumulator
from tilehires.tiling.engine import TiledDenoiser, piece
from tilehires.tiling.grid import elastic_grid
from tilehires.tiling.window import axis_weights
from tilehires.upscalers.ring import margin

X, BOTH = Wrap(x=True), Wrap(x=True, y=True)


@st.composite
def rings(draw: st.DrawFn) -> dict[str, int]:
    multiple = draw(st.sampled_from([1, 2, 8]))
    tile_max = draw(st.integers(2, 20)) * multiple
    return {
        "multiple": multiple,
        "tile_max": tile_max,
        "overlap": draw(st.integers(0, tile_max - multiple)),
        "length": draw(st.integers(1, 80)) * multiple,
        "tile_min": draw(st.integers(0, tile_max)),
    }


@given(rings())
def test_tiles_go_around_and_their_weights_sum_to_one(cut: dict[str, int]) -> None:
    length = cut["length"]
    grid = elastic_grid(
        Size(length, 1),
        tile_max=cut["tile_max"],
        tile_min=cut["tile_min"] or None,
        overlap=cut["overlap"],
        multiple=cut["multiple"],
        wrap=BOTH,
    )
    assert grid.wrap == Wrap(x=length > cut["tile_max"]), "one tile needs no going around"
    _, weights = axis_weights(grid)
    total = np.zeros(length)
    for start, weight in zip(grid.xs, weights, strict=True):
        assert weight.min() >= 0
        np.add.at(total, np.arange(start, start + grid.tile.width) % length, weight)
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-12)
    if not grid.wrap.x:
        return
    assert grid.tile.width <= min(cut["tile_max"], length)
    gaps = [b - a for a, b in pairwise((*grid.xs, length))]
    assert all(grid.tile.width - gap >= cut["overlap"] for gap in gaps), "also the last tile and the first"
    assert max(gaps) - min(gaps) <= cut["multiple"] and min(gaps) >= cut["multiple"]
    assert all(start % cut["multiple"] == 0 for start in grid.xs)


def test_a_ring_that_leaves_a_tile_nothing_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError):
        elastic_grid(Size(64, 8), tile_max=16, overlap=16, multiple=8, wrap=X)


def test_blending_what_was_cut_gives_the_canvas_back() -> None:
    grid = elastic_grid(Size(40, 24), tile_max=16, overlap=4, multiple=4, wrap=BOTH)
    assert grid.wrap == BOTH and any(tile.box.x1 > 40 and tile.box.y1 > 24 for tile in grid.tiles)
    planes = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    seen: list[Box] = []

    def same(tiles: torch.Tensor, boxes: object) -> torch.Tensor:
        seen.append(boxes[0])  # type: ignore[index]
        return tiles

    torch.testing.assert_close(TiledDenoiser(grid)(planes, same), planes, rtol=0, atol=1e-6)
    assert len(seen) == len(grid.tiles)
    image = planes[0].permute(1, 2, 0).numpy()
    blended = Accumulator.image(grid, 3)
    for tile in grid.tiles:
        blended.add(tile, piece(planes, tile.box)[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(blended.result(), image, rtol=0, atol=1e-6)


def test_the_parts_of_a_box_that_reaches_around() -> None:
    parts = list(Box(6, -2, 11, 1).wrapped(Size(8, 4)))
    assert [place for place, _ in parts] == [Box(6, 2, 8, 4), Box(0, 2, 3, 4), Box(6, 0, 8, 1), Box(0, 0, 3, 1)]
    assert [inside for _, inside in parts] == [Box(0, 0, 2, 2), Box(2, 0, 5, 2), Box(0, 2, 2, 3), Box(2, 2, 5, 3)]
    assert list(Box(1, 1, 3, 3).wrapped(Size(8, 4))) == [(Box(1, 1, 3, 3), Box(0, 0, 2, 2))]


@pytest.mark.parametrize(("axis", "wrap"), [(1, X), (0, Wrap(y=True))])
def test_the_lock_goes_around(axis: int, wrap: Wrap) -> None:
    """Rolling both pictures rolls what is added, along a ring; and along no other axis."""
    draw = np.random.default_rng(3)
    wanted, pixels = (draw.random((96, 96, 3)).astype(np.float32) for _ in range(2))

    def locked(shift: int, along: int) -> np.ndarray:
        made = np.roll(pixels, shift, along)
        lock.lock(made, lock.low_band(np.roll(wanted, shift, along)), 1.0, wrap)
        return np.roll(made, -shift, along)

    np.testing.assert_allclose(locked(24, axis), locked(0, axis), rtol=0, atol=1e-5)
    assert np.abs(locked(24, 1 - axis) - locked(0, 1 - axis)).max() > 1e-3


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64))
def test_a_margin_is_enlarged_to_whole_pixels(source: int, target: int, least: int) -> None:
    before, after = margin(source, target, least)
    assert before >= least and before * target == after * source


def test_transparency_goes_around_as_the_colour_does() -> None:
    alpha = np.random.default_rng(3).random((12, 20)).astype(np.float32)
    last = Size(40, 24)
    way = Route(Size(20, 12), (Step("hires", last, Box.of(last)),))

    def made(rolled: int, wrap: Wrap) -> np.ndarray:
        resized = resized_alpha(np.roll(alpha, rolled, 1), way, wrap)
        assert resized is not None and resized.shape == (24, 40)
        return resized

    assert np.abs(np.roll(made(5, X), -10, 1) - made(0, X)).max() < 1e-6
    assert np.abs(np.roll(made(5, OPEN), -10, 1) - made(0, X)).max() > 1e-2
    whole = Image.fromarray(alpha).resize((40, 24), Image.Resampling.LANCZOS)
    assert np.array_equal(made(0, OPEN), np.clip(np.asarray(whole), 0, 1)), "elsewhere no bit differs"
