"""The window: a partition of unity on any grid, kind to the canvas' border, silent at cut edges."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilehires.geometry import Size
from tilehires.tiling.grid import TileGrid, elastic_grid
from tilehires.tiling.window import MARGIN, axis_weights


@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_weights_sum_to_one_however_deep_the_overlap(length: int, tile_max: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile_max - 1))
    grid = elastic_grid(Size(length, 1), tile_max=tile_max, tile_min=1, overlap=overlap, multiple=1)
    _, weights = axis_weights(grid)
    total = np.zeros(length)
    for start, weight in zip(grid.xs, weights, strict=True):
        assert weight.dtype == np.float64 and weight.shape == (grid.tile.width,)
        assert weight.min() >= 0 and weight.max() > 0
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-12)


def test_the_shape_of_one_window() -> None:
    grid = TileGrid(Size(96, 32), Size(64, 32), (0, 32), (0,))
    wy, wx = axis_weights(grid)
    np.testing.assert_array_equal(wy[0], np.ones(32))
    first, second = wx
    margin = int(32 * MARGIN)
    np.testing.assert_array_equal(first[: 32 + margin], 1.0, "no ramp on the image's border, none before the overlap")
    np.testing.assert_array_equal(first[-margin:], 0.0, "a margin at the cut edge is discarded")
    ramp = first[32:]
    assert (np.diff(ramp) <= 0).all() and 0.45 < ramp[15] < 0.6, "it falls smoothly, half-way in the middle"
    np.testing.assert_allclose(second, first[::-1], atol=1e-12)


def test_no_overlap_is_a_hard_cut() -> None:
    _, (first, second) = axis_weights(TileGrid(Size(8, 4), Size(4, 4), (0, 4), (0,)))
    np.testing.assert_array_equal(first, np.ones(4))
    np.testing.assert_array_equal(second, np.ones(4))
