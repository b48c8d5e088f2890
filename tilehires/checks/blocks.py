"""Block means, and the box of a block: what is local is pooled by its worst block, since a global mean would hide it."""

from __future__ import annotations

import numpy as np

from tilehires.checks.planes import Plane
from tilehires.geometry import Box, Size


def block_means(plane: Plane, side: int) -> Plane:
    """Means over blocks of `side`² of H×W; blocks at the right and bottom may be smaller."""
    ys, xs = np.arange(0, plane.shape[0], side), np.arange(0, plane.shape[1], side)
    sums = np.add.reduceat(np.add.reduceat(plane, ys, axis=0, dtype=np.float64), xs, axis=1)
    heights, widths = np.diff(np.append(ys, plane.shape[0])), np.diff(np.append(xs, plane.shape[1]))
    return np.divide(sums, np.multiply.outer(heights, widths)).astype(np.float32)


def half_overlapping(means: Plane) -> Plane:
    """Means over squares of 2×2 blocks, half a square apart: a defect that lies across blocks fills one of them."""
    tall = (means[:-1] + means[1:]) / 2 if means.shape[0] > 1 else means
    made = (tall[:, :-1] + tall[:, 1:]) / 2 if means.shape[1] > 1 else tall
    return made.astype(np.float32, copy=False)


def worst_block(
    values: Plane, side: int, size: Size, scale: tuple[float, float] = (1.0, 1.0), step: int | None = None
) -> Box:
    """The box, in output pixels, of the block with the largest value; NaN counts as none. `size`: the output's.

    `scale`: output pixels to one pixel of the blocks' frame, (down, across). `step`: from a block to the next, if not `side`.
    """
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    step = step or side
    y0, x0 = int(row) * step * scale[0], int(column) * step * scale[1]
    box = Box(int(x0), int(y0), int(np.ceil(x0 + side * scale[1])), int(np.ceil(y0 + side * scale[0])))
    return box.clip(size)


def size_of(pixels: np.ndarray) -> Size:
    """The size of an H×W×C array."""
    return Size(pixels.shape[1], pixels.shape[0])
