"""The accumulator and the tile-wise map: what is put in comes out, once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilehires.errors import ConfigError
from tilehires.geometry import Size
from tilehires.tiling.accumulator import Accumulator
from tilehires.tiling.grid import elastic_grid
from tilehires.tiling.image import image_grid, map_tiles

GRID = elastic_grid(Size(40, 56), tile_max=32, overlap=8)


def picture(width: int = 40, height: int = 56) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), dtype=np.float32)


def test_an_image_cut_and_blended_is_the_image() -> None:
    image = picture()
    accumulator = Accumulator.image(GRID, 3)
    for tile in GRID.tiles:
        accumulator.add(tile, image[tile.box.slices])
    np.testing.assert_allclose(accumulator.result(), image, atol=1e-6)


def test_a_tensor_cut_and_blended_is_the_tensor_in_any_order_and_dtype() -> None:
    x = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    accumulator = Accumulator.tensor(GRID, (1, 3))
    for tile in reversed(GRID.tiles):
        accumulator.add(tile, x[(..., *tile.box.slices)].double())
    assert accumulator.result().dtype == torch.float32
    torch.testing.assert_close(accumulator.result(), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_tiles_changes_no_bit(seed: int) -> None:
    """Where four tiles meet the sum of four floats depends on its order."""
    answers = torch.randn(len(GRID.tiles), 3, 32, 24, generator=torch.Generator().manual_seed(1))
    in_order, shuffled = Accumulator.tensor(GRID, (3,)), Accumulator.tensor(GRID, (3,))
    arrays = Accumulator.image(GRID, 3)
    for tile in GRID.tiles:
        in_order.add(tile, answers[tile.index])
    for index in np.random.default_rng(seed).permutation(len(GRID.tiles)):
        shuffled.add(GRID.tiles[index], answers[index])
        arrays.add(GRID.tiles[index], answers[index].permute(1, 2, 0).numpy())
    assert torch.equal(shuffled.result(), in_order.result())
    np.testing.assert_array_equal(arrays.result(), in_order.result().permute(1, 2, 0).numpy())


def test_a_tile_of_nan_is_seen_and_spoils_no_other() -> None:
    accumulator, last = Accumulator.tensor(GRID, (1,)), GRID.tiles[-1]
    for tile in GRID.tiles:
        accumulator.add(tile, torch.full((1, tile.box.height, tile.box.width), torch.nan if tile is last else 1.0))
    result = accumulator.result()
    rows, columns = last.box.slices
    assert result[0, rows, columns].isnan().all(), "the whole of the broken tile shows it, its margin too"
    result[0, rows, columns] = 1.0
    torch.testing.assert_close(result, torch.ones_like(result), atol=1e-6, rtol=0)


def test_a_canvas_of_the_callers_own_is_written_in_place(tmp_path) -> None:
    canvas = np.lib.format.open_memmap(tmp_path / "canvas.npy", "w+", np.float32, (56, 40, 1))
    accumulator = Accumulator(GRID, canvas)
    for tile in GRID.tiles:
        accumulator.add(tile, np.ones((tile.box.height, tile.box.width, 1), np.float32))
    assert accumulator.result() is canvas
    np.testing.assert_allclose(canvas, 1.0, atol=1e-6)


def test_missing_double_and_misshapen_tiles_are_refused() -> None:
    accumulator = Accumulator.image(GRID, 3)
    first = GRID.tiles[0]
    with pytest.raises(ValueError, match="shape"):
        accumulator.add(first, picture(5, 5))
    accumulator.add(first, picture(first.box.width, first.box.height))
    with pytest.raises(ValueError, match="before"):
        accumulator.add(first, picture(first.box.width, first.box.height))
    with pytest.raises(ValueError, match="never added"):
        accumulator.result()
    with pytest.raises(ValueError, match="canvas of"):
        Accumulator(GRID, np.zeros((40, 56, 3), np.float32))
    with pytest.raises(ValueError, match="float32"):
        Accumulator(GRID, torch.zeros(56, 40, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_mapping_tiles_of_a_pointwise_function_equals_mapping_the_image(scale: int) -> None:
    def enlarge(tile: np.ndarray) -> np.ndarray:
        return (tile * 0.5 + 0.1).repeat(scale, 0).repeat(scale, 1)

    image, seen = picture(37, 53), []
    result = map_tiles(image, enlarge, tile=16, overlap=5, scale=scale, on_tile=seen.append)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, enlarge(image), atol=1e-6)
    assert len(seen) == len(image_grid(Size(37, 53), tile=16, overlap=5).tiles) > 4


def test_one_tile_is_the_functions_own_answer() -> None:
    answer = picture()
    assert map_tiles(picture(), lambda tile: answer, tile=64, overlap=8) is answer


def test_map_tiles_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="came back as"):
        map_tiles(picture(), lambda tile: tile[:-1], tile=16, overlap=4)
    with pytest.raises(ConfigError, match="overlap"):
        map_tiles(picture(), lambda tile: tile, tile=16, overlap=16)
