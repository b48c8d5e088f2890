"""The elastic grid: covers exactly, overlaps enough, aligned, even, and no dearer than it must be."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling.grid import TileGrid, elastic_grid


def sdxl_flops(width: int, height: int) -> float:
    """Roughly SDXL's work per forward call by tile side, measured on meta tensors: 64:1.59, 96:3.64, 128:6.76, 192:17.3 TFLOP."""
    cells = width * height
    return 3.66e-4 * cells + 2.6e-9 * cells**2


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, int]:
    multiple = draw(st.sampled_from([1, 2, 8]))
    tile_max = draw(st.integers(2, 20)) * multiple
    return {
        "multiple": multiple,
        "tile_max": tile_max,
        "overlap": draw(st.integers(0, tile_max - multiple)),
        "width": draw(st.integers(1, 80)) * multiple,
        "height": draw(st.integers(1, 80)) * multiple,
        "tile_min": draw(st.integers(0, tile_max)),
    }


@given(cuts())
def test_any_grid_covers_with_even_aligned_tiles_that_overlap_enough(cut: dict[str, int]) -> None:
    canvas = Size(cut["width"], cut["height"])
    grid = elastic_grid(
        canvas,
        tile_max=cut["tile_max"],
        tile_min=cut["tile_min"] or None,
        overlap=cut["overlap"],
        multiple=cut["multiple"],
    )
    for starts, tile, length in (
        (grid.xs, grid.tile.width, canvas.width),
        (grid.ys, grid.tile.height, canvas.height),
    ):
        assert tile <= max(cut["tile_max"], 1)
        assert starts[0] == 0 and starts[-1] + tile == length, "the first and last tile must touch the edges"
        assert all(s % cut["multiple"] == 0 for s in starts)
        gaps = [b - a for a, b in pairwise(starts)]
        assert all(gap >= cut["multiple"] for gap in gaps), "no two tiles at one place"
        assert all(tile - gap >= cut["overlap"] for gap in gaps), "neighbours overlap by what was asked"
        assert not gaps or max(gaps) - min(gaps) <= cut["multiple"], "spread evenly"
    assert len({tile.box.size for tile in grid.tiles}) == 1


def test_tiles_are_row_major_and_boxes_say_where_they_are() -> None:
    grid = TileGrid(Size(12, 8), Size(8, 8), (0, 4), (0,))
    assert [(tile.index, tile.box) for tile in grid.tiles] == [(0, Box(0, 0, 8, 8)), (1, Box(4, 0, 12, 8))]
    assert grid.work == pytest.approx(128 / 96)


@pytest.mark.parametrize("length", [8, 13, 64])
def test_an_axis_up_to_tile_max_is_one_tile_whatever_its_length(length: int) -> None:
    grid = elastic_grid(Size(length, 128), tile_max=64, overlap=8)
    assert grid.tile.width == length and grid.xs == (0,)
    assert len(grid.ys) == 3


def test_sdxl_at_2048_takes_four_tiles_of_136_over_nine_of_128() -> None:
    """2048² in fixed tiles of 1024 costs R 2.25; the elastic grid 1.13."""
    grid = elastic_grid(Size(256, 256), tile_min=104, tile_max=144, overlap=16, cost=sdxl_flops)
    assert grid.tile == Size(136, 136) and len(grid.tiles) == 4
    assert grid.work == pytest.approx(1.13, abs=0.005)


def test_a_steep_cost_buys_more_smaller_tiles_and_a_flat_one_does_not() -> None:
    canvas = Size(512, 512)
    steep = elastic_grid(canvas, tile_min=64, tile_max=256, overlap=16, cost=lambda w, h: float((w * h) ** 2))
    flat = elastic_grid(canvas, tile_min=64, tile_max=256, overlap=16, cost=lambda w, h: 1.0)
    assert len(steep.tiles) > len(flat.tiles) == 9
    assert steep.tile.width >= 64


def test_without_a_size_in_range_the_fewest_tiles_win() -> None:
    grid = elastic_grid(Size(136, 136), tile_min=120, tile_max=128, overlap=8)
    assert len(grid.xs) == 2 and grid.tile.width == 72


def test_scaling_a_grid_scales_everything() -> None:
    grid = elastic_grid(Size(96, 160), tile_max=64, overlap=8)
    scaled = grid.scaled(8)
    assert [tile.box for tile in scaled.tiles] == [tile.box.scale(8) for tile in grid.tiles]
    assert scaled.canvas == Size(768, 1280)
    assert TileGrid.whole(Size(5, 7)).tiles[0].box == Box(0, 0, 5, 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"overlap": 64}, "overlap of 64"),
        ({"overlap": 60}, "overlap of 64"),
        ({"overlap": -1}, "negative"),
        ({"overlap": 8, "tile_min": 72}, "larger than the largest"),
        ({"overlap": 8, "multiple": 0}, "multiple = 0"),
        ({"overlap": 8, "canvas": Size(100, 64)}, "no multiple of 8"),
        ({"overlap": 8, "canvas": Size(0, 64)}, "nothing to tile"),
    ],
)
def test_impossible_cuts_are_refused_with_a_hint(options: dict, says: str) -> None:
    canvas = options.pop("canvas", Size(128, 128))
    with pytest.raises(ConfigError, match=says) as error:
        elastic_grid(canvas, tile_max=64, **options)
    assert error.value.hint, "an error must say what to do next"


def test_the_grid_imports_no_torch() -> None:
    code = "import sys, tilehires.tiling.grid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "tiling.grid must stay free of torch"
