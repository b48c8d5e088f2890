"""A picture cut where it is read is the picture turned into a tensor whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilehires.geometry import Size
from tilehires.tiling.planes import Planes


def whole(pixels: np.ndarray, size: Size) -> torch.Tensor:
    grown = np.pad(
        pixels, ((0, size.height - pixels.shape[0]), (0, size.width - pixels.shape[1]), (0, 0)), mode="symmetric"
    )
    return torch.from_numpy(np.ascontiguousarray(grown.transpose(2, 0, 1)))[None] * 2 - 1


@pytest.mark.parametrize("size", [Size(7, 5), Size(8, 5), Size(16, 8), Size(40, 33)])
@pytest.mark.parametrize("rows", [slice(0, 5), slice(2, 3), slice(3, 8), slice(4, 33), slice(None)])
@pytest.mark.parametrize("columns", [slice(0, 7), slice(6, 16), slice(5, 40), slice(None)])
def test_a_cut_is_that_part_of_the_mirrored_picture(size: Size, rows: slice, columns: slice) -> None:
    pixels = np.random.default_rng(0).random((5, 7, 3), np.float32)
    planes, expected = Planes(pixels, size), whole(pixels, size)
    assert planes.shape == expected.shape
    assert torch.equal(planes[..., rows, columns], expected[..., rows, columns])
    assert torch.equal(planes[:, :, rows], expected[:, :, rows])


def test_it_comes_in_the_format_asked_for() -> None:
    planes = Planes(np.full((4, 4, 3), 0.3, np.float32), Size(4, 4)).typed(torch.float16)
    assert planes[:, :, :].dtype == planes.dtype == torch.float16


def test_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="without a step"):
        Planes(np.zeros((4, 4, 3), np.float32), Size(4, 4))[..., slice(0, 4, 2), slice(None)]
