"""A function over the feathered tiles of an image: for upscalers, and whatever else maps pixels to pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Size
from tilehires.tiling.accumulator import Accumulator
from tilehires.tiling.grid import TileGrid, elastic_grid

Pixels = NDArray[np.float32]


def image_grid(size: Size, *, tile: int, overlap: int) -> TileGrid:
    """The grid `map_tiles` cuts: even tiles of at most `tile` pixels. Raises ConfigError when overlap ≥ tile."""
    return elastic_grid(size, tile_max=tile, overlap=overlap, multiple=1)


def map_tiles(
    image: Pixels,
    function: Callable[[Pixels], Pixels],
    *,
    tile: int,
    overlap: int,
    scale: int = 1,
    on_tile: Callable[[int], None] | None = None,
    out: Pixels | None = None,
) -> Pixels:
    """Apply `function` to the overlapping tiles of `image` and blend its answers; memory is bounded by the tile.

    `image`: float32 H×W×C. `function` gets a contiguous float32 h×w×C piece and answers `scale`·h × `scale`·w × C',
    for the same C' each time. An image of one tile gets the function's own answer, unblended. `on_tile(1)` is called
    after each tile. `out`: zeros of the result's shape to write into; None: a new array.
    Returns float32 `scale`·H × `scale`·W × C'. Raises ConfigError when overlap ≥ tile, ValueError when an answer has
    another shape.
    """
    grid = image_grid(Size(image.shape[1], image.shape[0]), tile=tile, overlap=overlap)
    scaled = grid.scaled(scale)
    accumulator = None
    for piece in grid.tiles:
        answer = np.asarray(function(np.ascontiguousarray(image[piece.box.slices])), np.float32)
        expected = (scaled.tile.height, scaled.tile.width)
        if answer.ndim != 3 or answer.shape[:2] != expected:
            raise ValueError(f"a tile came back as {answer.shape}, not as {expected} pixels with channels last")
        if on_tile:
            on_tile(1)
        if len(grid.tiles) == 1:
            if out is None:
                return answer
            out[:] = answer
            return out
        if accumulator is None:
            accumulator = Accumulator.image(scaled, answer.shape[2]) if out is None else Accumulator(scaled, out)
        accumulator.add(piece, answer)
    if accumulator is None:
        raise ValueError("the grid has no tiles")
    return accumulator.result()
