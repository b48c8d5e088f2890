"""The accumulator: tiles in, the blended canvas out, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tilehires.tiling.grid import Tile, TileGrid
from tilehires.tiling.window import axis_weights

Canvas = TypeVar("Canvas", NDArray[np.float32], torch.Tensor)


class Accumulator(Generic[Canvas]):
    """Blends the tiles of a grid on a float32 canvas, each weighted by its window.

    The canvas is either a numpy array of H×W×C (an image, perhaps memory-mapped) or a tensor of …×H×W on any device.
    It must be all zero; it is written in place, and no second one is held: the weights sum to 1 as they are.
    Tiles are summed in the order of their indices, in whatever order they come: those that come early wait. Sums of
    floats depend on their order, the canvas doesn't.
    """

    def __init__(self, grid: TileGrid, canvas: Canvas) -> None:
        height, width = (canvas.shape[-2:]) if isinstance(canvas, torch.Tensor) else canvas.shape[:2]
        if (width, height) != (grid.canvas.width, grid.canvas.height):
            raise ValueError(f"a canvas of {width}x{height} for a grid over {grid.canvas}")
        if canvas.dtype not in (np.float32, torch.float32):
            raise ValueError(f"the canvas must be float32, not {canvas.dtype}")
        self._grid, self._canvas = grid, canvas
        self._next, self._early = 0, dict[int, Canvas]()
        self._rows, self._columns = axis_weights(grid)

    @classmethod
    def image(cls, grid: TileGrid, channels: int) -> Accumulator[NDArray[np.float32]]:
        """For H×W×`channels` arrays."""
        return Accumulator(grid, np.zeros((grid.canvas.height, grid.canvas.width, channels), np.float32))

    @classmethod
    def tensor(
        cls, grid: TileGrid, lead: Sequence[int], device: torch.device | str = "cpu"
    ) -> Accumulator[torch.Tensor]:
        """For `lead`×H×W tensors on `device`."""
        return Accumulator(grid, torch.zeros(*lead, grid.canvas.height, grid.canvas.width, device=device))

    def add(self, tile: Tile, values: Canvas) -> None:
        """Blend in what belongs to `tile` (its index counts: a tile of the unscaled grid names its scaled one).

        `values` has the canvas' shape but for a tile's height and width; any float dtype, and any device.
        Raises ValueError for another shape, or a tile that was added before.
        """
        index = tile.index
        if not self._next <= index < len(self._grid.tiles) or index in self._early:
            raise ValueError(f"tile {index} is not of this grid, or was added before")
        self._check_shape(values)
        self._early[index] = values
        while self._next in self._early:
            self._blend(self._next, self._early.pop(self._next))
            self._next += 1

    def result(self) -> Canvas:
        """The blended canvas: the very array that was given. Raises ValueError while tiles are missing."""
        count = len(self._grid.tiles)
        if self._next < count:
            raise ValueError(f"{count - self._next - len(self._early)} of {count} tiles were never added")
        return self._canvas

    def _blend(self, index: int, values: Canvas) -> None:
        row, column = divmod(index, len(self._grid.xs))
        weight = np.multiply.outer(self._rows[row], self._columns[column]).astype(np.float32)
        for place, inside in self._grid.box(index).wrapped(self._grid.canvas):
            weights = weight[inside.slices]
            if isinstance(self._canvas, torch.Tensor):
                part = self._canvas[(..., *place.slices)]
                own = torch.as_tensor(values)[(..., *inside.slices)]
                part += own.to(part) * torch.from_numpy(weights).to(part.device)
            else:
                self._canvas[place.slices] += values[inside.slices] * weights[:, :, None]

    def _check_shape(self, values: Canvas) -> None:
        tile = (self._grid.tile.height, self._grid.tile.width)
        shape = tuple(self._canvas.shape)
        expected = (*shape[:-2], *tile) if isinstance(self._canvas, torch.Tensor) else (*tile, *shape[2:])
        if tuple(values.shape) != expected:
            raise ValueError(f"a tile of shape {tuple(values.shape)} where {expected} belongs")
