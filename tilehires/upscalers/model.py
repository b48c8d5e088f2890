"""Model upscalers: a spandrel model over feathered tiles, to any size, without ever holding more than the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor, ModelTiling

from tilehires.errors import ImageError
from tilehires.geometry import Size
from tilehires.progress import Progress, Silent
from tilehires.tiling.grid import TileGrid
from tilehires.tiling.image import image_grid, map_tiles
from tilehires.upscalers.fitted import map_tiles_to_size
from tilehires.upscalers.loading import load
from tilehires.upscalers.pillow import resample
from tilehires.upscalers.protocol import OVERLAP, Models

MOST_RUNS = 3
WHOLE_SIDE = 1024
"""A model for which spandrel discourages tiling gets images up to this side in one piece, whatever `tile` says."""

_BUILTIN = Path(__file__).parent.parent / "builtin"

Pixels = NDArray[np.float32]


class ModelUpscaler:
    """A model file, run until the size is reached, at most three times; then Lanczos, to the exact size."""

    latent = False

    def __init__(self, name: str, path: Path, models: Models | None = None) -> None:
        self.name = name
        self.files = (path,)
        self._models = models

    @cached_property
    def _own(self) -> ImageModelDescriptor[Any]:
        return load(self.files[0])

    def upscale(
        self,
        image: Pixels,
        size: Size,
        *,
        tile: int = 512,
        overlap: int = OVERLAP,
        progress: Progress | None = None,
        out: Pixels | None = None,
    ) -> Pixels:
        """See `Upscaler.upscale`. Works on the device and in the number format the model is in."""
        progress = progress or Silent()
        model = self._models.upscaler(self.files[0]) if self._models else self._own
        tile = _tile_side(model, tile)
        sizes = run_sizes(Size(image.shape[1], image.shape[0]), size, model.scale)
        grids = [image_grid(one, tile=tile or one.long_side, overlap=overlap) for one in sizes]
        progress.begin(f"upscaling ({self.name})", sum(len(grid.tiles) for grid in grids))
        run = _Run(model, tile, overlap, progress.advance)
        for _ in grids[1:]:
            image = run.native(image)
        image = run.fitted(image, size, grids[-1], out)
        return np.clip(image, 0.0, 1.0, out=image)


def builtin(models: Models | None) -> ModelUpscaler:
    """The package's own 2x model."""
    return ModelUpscaler("builtin", _BUILTIN / "upscale_2x.safetensors", models)


def builtin_4x(models: Models | None) -> ModelUpscaler:
    """The package's own 4x model."""
    return ModelUpscaler("builtin-4x", _BUILTIN / "upscale_4x.safetensors", models)


def run_sizes(source: Size, target: Size, scale: int) -> tuple[Size, ...]:
    """The input size of every run of a model of that scale; at least one. A 1x model is run once.

    A result that is only short of the target by rounding (less than `scale` pixels) is not worth another run.
    """
    sizes = [source]
    while scale > 1 and len(sizes) < MOST_RUNS:
        reached = sizes[-1].scaled(scale)
        if reached.width + scale > target.width and reached.height + scale > target.height:
            break
        sizes.append(reached)
    return tuple(sizes)


def _tile_side(model: ImageModelDescriptor[Any], tile: int) -> int:
    """The largest side of a tile; 0: the model does its own tiling and gets whole images."""
    if model.tiling == ModelTiling.INTERNAL:
        return 0
    return max(tile, WHOLE_SIDE) if model.tiling == ModelTiling.DISCOURAGED else tile


@dataclass(frozen=True)
class _Run:
    """A model and how it is tiled."""

    model: ImageModelDescriptor[Any]
    tile: int
    overlap: int
    on_tile: Callable[[int], None]

    def native(self, image: Pixels, out: Pixels | None = None) -> Pixels:
        """The image at the model's own scale, in `out` where given."""
        return map_tiles(
            image,
            self._call,
            tile=self.tile or max(image.shape[:2]),
            overlap=self.overlap,
            scale=self.model.scale,
            on_tile=self.on_tile,
            out=out,
        )

    def fitted(self, image: Pixels, size: Size, grid: TileGrid, out: Pixels | None = None) -> Pixels:
        """The image at `size`, in `out` (zeros) where given.

        Where the model makes more, each tile is made smaller before it is put down: a 4x model on the way from 8192² to
        16384² would otherwise hold 32768² in between (13 GB).
        """
        source = grid.canvas
        native = source.scaled(self.model.scale)
        if native != size and native.covers(size) and size.covers(source) and len(grid.tiles) > 1 and self.overlap > 0:
            return map_tiles_to_size(image, self._call, size, grid, on_tile=self.on_tile, out=out)
        if native == size:
            return self.native(image, out)
        return resample(self.native(image), size, out=out)

    def _call(self, piece: Pixels) -> Pixels:
        return call(self.model, piece)


def call(model: ImageModelDescriptor[Any], piece: Pixels) -> Pixels:
    """One tile through the model: h × w × 3 in, scale·h × scale·w × 3 out."""
    planes = torch.from_numpy(np.ascontiguousarray(piece.transpose(2, 0, 1)))[None]
    answer = _answer(model, planes)
    if not torch.isfinite(answer).all() and model.dtype != torch.float32:
        model.float()  # half precision overflowed, as some ESRGAN weights do: once and for all
        answer = _answer(model, planes)
    if not torch.isfinite(answer).all():
        raise ImageError("The upscaler model gave values that are not finite.", hint="Choose another upscaler.")
    return np.ascontiguousarray(answer[0].numpy().transpose(1, 2, 0))


def _answer(model: ImageModelDescriptor[Any], planes: torch.Tensor) -> torch.Tensor:
    """1×3×H×W on the CPU in and out. A grey model sees the channels one by one, an RGBA one an opaque alpha."""
    placed = planes.to(model.device, model.dtype)
    if model.input_channels == 1:
        answer = torch.cat([model(placed[:, channel : channel + 1]) for channel in range(3)], dim=1)
    elif model.input_channels == 4:
        answer = model(torch.cat([placed, torch.ones_like(placed[:, :1])], dim=1))
    else:
        answer = model(placed)
    return answer[:, :3].float().cpu()
