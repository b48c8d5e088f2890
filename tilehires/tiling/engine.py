"""The tile engine: one denoiser call over a large canvas, as batches of overlapping tiles blended in float32.

The model's *output* is fused and the scheduler steps once, on the canvas (MultiDiffusion, Bar-Tal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from tilehires.geometry import Box, Size
from tilehires.tiling.accumulator import Accumulator
from tilehires.tiling.grid import TileGrid
from tilehires.tiling.planes import Planes


class TiledDenoiser:
    """Cuts a canvas, calls the model on batches of tiles, blends its answers.

    `batch`: tiles per call. `pad_last`: fill a short last batch by repeating its last tile, so that every call has one
    shape (a compiled graph is reused); the surplus answers are dropped.
    """

    def __init__(self, grid: TileGrid, batch: int = 1, *, pad_last: bool = False) -> None:
        if batch < 1:
            raise ValueError(f"a batch of {batch} tiles; at least 1 is needed")
        self.grid, self.batch, self.pad_last = grid, batch, pad_last

    def __call__(self, x: torch.Tensor, call: Callable[[torch.Tensor, Sequence[Box]], torch.Tensor]) -> torch.Tensor:
        """The model's answer for the whole canvas.

        `x`: B×C×…×H×W, the canvas of the grid. `call(tiles, boxes)` gets n tiles of each of the B entries, batch-major
        (all tiles of entry 0 first; `expand` and `cut` prepare conditions likewise), as (B·n)×C×…×h×w, and the boxes of
        those n tiles in cells; it answers (B·n)×C'×…×h×w. Returns B×C'×…×H×W in the answers' dtype, where `x` is: a canvas
        in host memory stays there, whatever device the model is on. A single tile's answer is returned untouched, bit
        for bit.
        """
        height, width = x.shape[-2:]
        if (width, height) != (self.grid.canvas.width, self.grid.canvas.height):
            raise ValueError(f"latents of {width}x{height} cells for a grid over {self.grid.canvas}")
        tiles = self.grid.tiles
        if len(tiles) == 1:
            return call(x, (tiles[0].box,))
        accumulator, dtype = None, x.dtype
        for first in range(0, len(tiles), self.batch):
            group = tiles[first : first + self.batch]
            boxes = [tile.box for tile in group]
            if self.pad_last:
                boxes += boxes[-1:] * (min(self.batch, len(tiles)) - len(boxes))
            answer = call(cut(x, boxes), boxes).unflatten(0, (x.shape[0], len(boxes)))
            if accumulator is None:
                dtype = answer.dtype
                accumulator = Accumulator.tensor(self.grid, (x.shape[0], *answer.shape[2:-2]), x.device)
            for i, tile in enumerate(group):
                accumulator.add(tile, answer[:, i])
        if accumulator is None:
            raise ValueError("the grid has no tiles")
        return accumulator.result().to(dtype)


def cut(x: torch.Tensor, boxes: Sequence[Box], factor: int = 1) -> torch.Tensor:
    """The boxes of B×…×H×W, stacked batch-major: (B·n)×…×h×w; as `piece` where they wrap around.

    `factor`: what one cell of the boxes measures in `x` (8 for a ControlNet's hint in pixels).
    """
    boxes = [box.scale(factor) for box in boxes]
    return torch.stack([piece(x, box) for box in boxes], 1).flatten(0, 1)


def piece(x: torch.Tensor | Planes, box: Box) -> torch.Tensor:
    """The box of …×H×W; where it reaches beyond an edge it goes on at the opposite one."""
    rows: dict[int, list[torch.Tensor]] = {}
    for place, inside in box.wrapped(Size(x.shape[-1], x.shape[-2])):
        rows.setdefault(inside.y0, []).append(x[(..., *place.slices)])
    if len(rows) == 1 and len(rows[0]) == 1:
        return rows[0][0]
    return torch.cat([torch.cat(row, -1) for row in rows.values()], -2)


def expand(value: Any, batch: int, tiles: int) -> Any:
    """A condition of `batch` entries repeated for batches of `tiles` tiles: (B·n), batch-major.

    Tensors whose first axis is `batch` are repeated, also inside dicts, lists and tuples; anything else is passed on.
    """
    if tiles == 1:
        return value
    if isinstance(value, torch.Tensor):
        return value.repeat_interleave(tiles, 0) if value.ndim and value.shape[0] == batch else value
    if isinstance(value, dict):
        return {key: expand(item, batch, tiles) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(expand(item, batch, tiles) for item in value)
    return value


def mirrored(x: torch.Tensor, size: Size) -> torch.Tensor:
    """…×H×W grown to `size` at the right and bottom by reflection, which keeps noise noise; itself where it fits."""
    right, bottom = size.width - x.shape[-1], size.height - x.shape[-2]
    if not (right or bottom):
        return x
    return F.pad(x.flatten(0, -3)[None], (0, right, 0, bottom), mode="reflect")[0].unflatten(0, x.shape[:-2])
