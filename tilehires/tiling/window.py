"""The window: with what weight each tile counts. Separable, and a partition of unity by construction. No torch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tilehires.tiling.grid import TileGrid

MARGIN = 1 / 8  # of each overlap, at both of its ends: what a network says right at a cut edge is its worst


def axis_weights(grid: TileGrid) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """(wy, wx): one float64 array per row and per column of the grid, as long as a tile; a tile's weight is their
    outer product.

    Along each axis the weights of all tiles sum to 1 at every cell, to rounding, however deep the overlaps. They are
    ≥ 0, flat up to the canvas' border, 0 on a margin at cut edges, and cross over in raised cosines between.
    """
    return (
        (_around if grid.wrap.y else _weights)(grid.ys, grid.tile.height, grid.canvas.height),
        (_around if grid.wrap.x else _weights)(grid.xs, grid.tile.width, grid.canvas.width),
    )


def _weights(starts: tuple[int, ...], tile: int, length: int) -> list[NDArray[np.float64]]:
    # Tile i fades in by f_i over its overlap with the tile before and out by f_{i+1} over that with the next:
    # w_i = f_i − f_{i+1}. With f_0 = 1 and f_n = 0 the sum telescopes to 1. w_i ≥ 0, because both ends of the
    # overlaps are in order, and so is f_i ≥ f_{i+1}.
    centres = np.arange(length, dtype=np.float64) + np.float64(0.5)
    fades = [np.ones(length)]
    fades += [_fade(centres, second, first + tile) for first, second in pairwise(starts)]
    fades.append(np.zeros(length))
    return [(up - down)[s : s + tile] for s, (up, down) in zip(starts, pairwise(fades), strict=True)]


def _around(starts: tuple[int, ...], tile: int, length: int) -> list[NDArray[np.float64]]:
    """The same on a ring of `length`, which is unrolled: of the tile before the first and the one after the last."""
    before, after = starts[-1] - length, starts[0] + length
    made = []
    for last, start, following in zip((before, *starts), starts, (*starts[1:], after), strict=False):
        centres = start + np.arange(tile, dtype=np.float64) + np.float64(0.5)
        made.append(_fade(centres, start, last + tile) - _fade(centres, following, start + tile))
    return made


def _fade(centres: NDArray[np.float64], start: int, end: int) -> NDArray[np.float64]:
    """0 before the overlap [start, end), 1 after it, a raised cosine inside its margins."""
    if start == end:
        return (centres > start).astype(np.float64)
    margin = (end - start) * MARGIN
    t = np.clip((centres - start - margin) / (end - start - 2 * margin), 0.0, 1.0)
    return 0.5 - 0.5 * np.cos(np.pi * t)
