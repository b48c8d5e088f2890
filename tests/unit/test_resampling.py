"""Resampling of float planes, and the blending of tiles at a size that is not the model's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilehires.geometry import Size
from tilehires.tiling.grid import elastic_grid
from tilehires.upscalers.fitted import _spans, map_tiles_to_size
from tilehires.upscalers.pillow import Kernel, resample

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kernel", list(Kernel))
@pytest.mark.parametrize("size", [Size(31, 17), Size(7, 40), Size(1, 1)])
def test_planes_are_resized_as_pillow_does(kernel: Kernel, size: Size) -> None:
    image = RNG.random((13, 19, 3), dtype=np.float32)
    got = resample(image, size, kernel)
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel])).resize((size.width, size.height), kernel)
        np.testing.assert_array_equal(got[..., channel], np.asarray(plane))
    np.testing.assert_array_equal(resample(image[..., 0], size, kernel), got[..., 0])


def test_the_same_size_is_the_same_image() -> None:
    image = RNG.random((13, 19, 3), dtype=np.float32)
    got = resample(image, Size(19, 13))
    np.testing.assert_array_equal(got, image)
    got[0] = 0
    assert image[0].any(), "the result must be a copy"


def test_steps_finer_than_eight_bits_survive() -> None:
    image = np.linspace(0.5, 0.5 + 1 / 255, 64, dtype=np.float32)[None, :].repeat(4, 0)
    assert len(np.unique(resample(image, Size(128, 8)))) > 100


def test_a_box_takes_its_part_with_fractions() -> None:
    ramp = np.arange(32, dtype=np.float32)[None, :].repeat(3, 0)
    got = resample(ramp, Size(16, 3), Kernel.BILINEAR, box=(8.5, 0, 24.5, 3))
    np.testing.assert_allclose(got[1], np.arange(16) + 8.5, atol=1e-4)


@given(
    length=st.integers(40, 400),
    tile=st.integers(20, 64),
    overlap=st.integers(1, 16),
    factor=st.floats(1.0, 4.0),
)
def test_the_weights_of_all_shares_sum_to_one(length: int, tile: int, overlap: int, factor: float) -> None:
    grid = elastic_grid(Size(length, 8), tile_max=tile, overlap=overlap, multiple=1)
    out = round(length * factor)
    total = np.zeros(out)
    for span, start in zip(_spans(grid.xs, grid.tile.width, out / length, out), grid.xs, strict=True):
        total[span.place] += span.weights
        assert span.source0 >= -1e-6 and span.source1 <= grid.tile.width + 1e-6, f"tile at {start} looks outside itself"
    np.testing.assert_allclose(total, 1, atol=1e-12)


@pytest.mark.parametrize("size", [Size(200, 120), Size(317, 190), Size(100, 60), Size(399, 239)])
def test_tiles_blend_to_what_one_piece_would_give(size: Size) -> None:
    image = RNG.random((60, 100, 3), dtype=np.float32)

    def double_twice(piece: np.ndarray) -> np.ndarray:
        return piece.repeat(4, 0).repeat(4, 1)

    grid = elastic_grid(Size(100, 60), tile_max=40, overlap=20, multiple=1)
    assert len(grid.tiles) > 4
    got = map_tiles_to_size(image, double_twice, size, grid)
    np.testing.assert_allclose(got, resample(double_twice(image), size), atol=1e-4)
