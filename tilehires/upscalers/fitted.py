"""A model's tiles blended at a smaller size than the model makes: "upscale, then Lanczos down", a tile at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Size
from tilehires.tiling.grid import TileGrid
from tilehires.upscalers.pillow import resample

Pixels = NDArray[np.float32]


def map_tiles_to_size(
    image: Pixels,
    function: Callable[[Pixels], Pixels],
    size: Size,
    grid: TileGrid,
    *,
    on_tile: Callable[[int], None] | None = None,
    out: Pixels | None = None,
) -> Pixels:
    """Apply `function` to the tiles of `image`, bring each answer to its share of `size` by Lanczos, blend them there.

    `function` enlarges a float32 h×w×C piece by a whole factor, the same each time, that reaches `size` or more; `size`
    is no smaller than the image, and the tiles overlap. Memory is that of the output, `out` (zeros) where given, and one
    tile.
    Returns float32 of `size`, unclipped.
    """
    columns = _spans(grid.xs, grid.tile.width, size.width / grid.canvas.width, size.width)
    rows = _spans(grid.ys, grid.tile.height, size.height / grid.canvas.height, size.height)
    for tile in grid.tiles:
        row, column = (spans[at] for spans, at in zip((rows, columns), divmod(tile.index, len(grid.xs)), strict=True))
        answer = function(np.ascontiguousarray(image[tile.box.slices]))
        factor = answer.shape[1] / tile.box.width
        box = (column.source0 * factor, row.source0 * factor, column.source1 * factor, row.source1 * factor)
        box = (box[0], box[1], min(box[2], answer.shape[1]), min(box[3], answer.shape[0]))
        share = resample(answer, Size(column.length, row.length), box=box)
        if out is None:
            out = np.zeros((size.height, size.width, answer.shape[2]), np.float32)
        weight = np.multiply.outer(row.weights, column.weights).astype(np.float32)
        out[row.place, column.place] += share * weight[..., None]
        if on_tile:
            on_tile(1)
    if out is None:
        raise ValueError("the grid has no tiles")
    return out


@dataclass(frozen=True)
class _Span:
    """One tile's share of an axis: its output pixels, where they lie in the tile (in input pixels), their weights."""

    start: int
    length: int
    source0: float
    source1: float
    weights: NDArray[Any]

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.length)


def _spans(starts: Sequence[int], tile: int, factor: float, length: int) -> list[_Span]:
    """The shares of an axis of `length` output pixels. At every pixel the weights of all shares sum to 1.

    Weights fall as a raised cosine over the middle half of an overlap; its outer quarters, where the model sees least
    of what lies around, count for nothing. Image borders aren't faded.
    """
    raw: list[tuple[int, NDArray[Any]]] = []
    for i, x in enumerate(starts):
        first = math.ceil(x * factor - 1e-9)
        last = length if i == len(starts) - 1 else min(length, math.floor((x + tile) * factor + 1e-9))
        centres = (np.arange(first, last) + 0.5) / factor
        weights = np.ones(last - first)
        if i > 0:
            weights *= _ramp(centres, x, starts[i - 1] + tile)
        if i < len(starts) - 1:
            weights *= 1.0 - _ramp(centres, starts[i + 1], x + tile)
        raw.append((first, weights))
    total = np.zeros(length)
    for first, weights in raw:
        total[first : first + len(weights)] += weights
    return [
        _Span(
            first,
            len(weights),
            first / factor - x,
            (first + len(weights)) / factor - x,
            weights / total[first : first + len(weights)],
        )
        for x, (first, weights) in zip(starts, raw, strict=True)
    ]


def _ramp(centres: NDArray[Any], begin: float, end: float) -> NDArray[Any]:
    """0 up to the first quarter of [begin, end], 1 from its last quarter, a raised cosine between."""
    quarter = (end - begin) / 4
    width = max(end - begin - 2 * quarter, 1e-9)
    along = np.clip((centres - begin - quarter) / width, 0.0, 1.0)
    return 0.5 - 0.5 * np.cos(np.pi * along)
