"""A picture as a VAE's encoder wants it, cut out only where it is read: no second copy of a large canvas is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilehires.geometry import Size


@dataclass(frozen=True, eq=False)
class Planes:
    """H×W×C pixels in [0, 1] seen as a tensor 1×C×h×w in [-1, 1] on the CPU, where `size` is no smaller than the picture.

    Beyond the right and the lower edge it is mirrored, so that the border continues the picture.
    """

    pixels: NDArray[np.float32]
    size: Size
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, self.pixels.shape[2], self.size.height, self.size.width

    def typed(self, dtype: torch.dtype) -> Planes:
        """The same in another number format."""
        return replace(self, dtype=dtype)

    def __getitem__(self, key: tuple[EllipsisType, slice, slice] | tuple[slice, slice, slice]) -> torch.Tensor:
        """`planes[..., rows, columns]`, or `planes[:, :, rows]` of whole rows; slices as of a tensor, without a step."""
        rows, columns = (key[1], key[2]) if key[0] is Ellipsis else (key[2], slice(None))
        piece = _mirrored(self.pixels, 0, rows.indices(self.size.height))
        piece = _mirrored(piece, 1, columns.indices(self.size.width))
        planes = torch.from_numpy(np.ascontiguousarray(piece.transpose(2, 0, 1)))[None] * 2 - 1
        return planes.to(self.dtype)


def _mirrored(pixels: NDArray[Any], axis: int, span: tuple[int, int, int]) -> NDArray[Any]:
    """The indices `span` along an axis, where those beyond its end run back and forth: … n−2, n−1, n−1, n−2, …"""
    start, stop, step = span
    length = pixels.shape[axis]
    if step != 1:
        raise ValueError(f"planes are cut without a step, not in steps of {step}")
    if stop <= length:
        return pixels[start:stop] if axis == 0 else pixels[:, start:stop]
    at = np.arange(start, stop) % (2 * length)
    return pixels.take(np.minimum(at, 2 * length - 1 - at), axis)
