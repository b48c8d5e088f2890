"""`tiled(pipe)`: any diffusers pipeline of a known family denoises tile by tile, without a change to the pipeline.

The denoiser instance's class is swapped for a subclass whose `__call__` goes through the engine. What else hangs on the
instance (offload hooks, LoRA, low-precision storage, compiled blocks) acts inside that call, on tiles. Wrapping the
module, a diffusers ModelHook or a step callback each break one of them (docs/design.md).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling.adapters import Adapter, Arguments, View, adapter_for
from tilehires.tiling.engine import TiledDenoiser, mirrored
from tilehires.tiling.grid import TileGrid, elastic_grid
from tilehires.tiling.shift import tile_shift

ENGINE = "_tilehires_engine"


@contextlib.contextmanager
def tiled(
    pipe: Any,
    *,
    tile: int,
    overlap: int,
    batch: int = 1,
    time_ids: Literal["tile", "global", "crop"] = "tile",
) -> Iterator[PipelineTiles]:
    """While open, `pipe`'s denoiser works in overlapping tiles; on leaving it is the very instance it was.

    `pipe`: a diffusers pipeline whose denoiser is a UNet2DConditionModel or the transformer of SD3, Flux, Flux2,
    Qwen-Image or Z-Image. `tile`: the largest tile, `overlap`: the least overlap, both in the denoiser's cells
    (latents; tokens where they are packed); a canvas up to one tile is answered bit for bit as without. `batch`: tiles
    per call. `time_ids`: what SDXL is told of size and crop. Flow matching with a shift by resolution gets that of the
    tile which the grid uses: that of a large canvas would drown the input in noise (tiling/shift.py). VAE and
    ControlNets still run on the whole canvas; their residuals are cut. Yields the engine, whose `grid` is that of the
    latest call.
    Raises ConfigError for another denoiser, one with an enabled cache, a second entry, or an impossible tile.
    """
    parts = (getattr(pipe, name, None) for name in ("transformer", "unet"))
    denoiser = next((part for part in parts if part is not None), None)  # truth is no test: compiled ones have none
    if denoiser is None:
        raise ConfigError(f"A {type(pipe).__name__} has no denoiser to tile.", hint="Give a pipeline of images.")
    model = getattr(denoiser, "_orig_mod", denoiser)  # below torch.compile's wrapper
    adapter = adapter_for(type(model))
    if ENGINE in vars(denoiser):
        raise ConfigError("This pipeline is tiled already.", hint="Leave the first `with tiled(…)` before the second.")
    if getattr(model, "is_cache_enabled", False):
        raise ConfigError("diffusers' caches would mix up tiles.", hint="Call disable_cache() on the transformer.")
    if time_ids not in ("tile", "global", "crop"):
        raise ConfigError(f"time_ids = {time_ids!r} is unknown.", hint="Use 'tile', 'global' or 'crop'.")
    if tile < 1 or batch < 1:
        raise ConfigError(f"tile = {tile} and batch = {batch} must be at least 1.", hint="Try tile=128, batch=1.")
    elastic_grid(Size(8 * tile, 8 * tile), tile_max=tile, overlap=overlap, multiple=adapter.multiple)  # refuses now
    compiled = denoiser is not model or any(m._compiled_call_impl is not None for m in model.modules())
    view = View(time_ids, getattr(pipe, "vae_scale_factor", 8))
    engine = PipelineTiles(adapter, type(model), tile, overlap, batch, pad_last=compiled, view=view)
    base = type(denoiser)
    with tile_shift(pipe, adapter, engine.grid_of, Size(tile, tile)):
        # Past nn.Module's own __setattr__: torch.compile's wrapper would hand both on to the module inside it.
        object.__setattr__(denoiser, ENGINE, engine)
        object.__setattr__(denoiser, "__class__", _tiling(base))
        try:
            yield engine
        finally:
            object.__setattr__(denoiser, "__class__", base)
            object.__delattr__(denoiser, ENGINE)


class PipelineTiles:
    """One denoiser's tiles: settings, and after a call the grid it used."""

    def __init__(
        self, adapter: Adapter, model: type, tile: int, overlap: int, batch: int, *, pad_last: bool, view: View
    ) -> None:
        self._adapter, self._tile, self._overlap, self._batch = adapter, tile, overlap, batch
        self._pad_last, self._view = pad_last, view
        self._signature = inspect.signature(model.forward)
        self.grid: TileGrid | None = None

    def __call__(self, stock: Callable[..., Any], args: tuple[Any, ...], given: Arguments) -> Any:
        """What `stock(*args, **given)`, the model's own call, would have answered for the whole canvas."""
        bound = self._signature.bind(None, *args, **given).arguments
        arguments = {name: value for i, (name, value) in enumerate(bound.items()) if i > 0}  # all but self
        adapter, x = self._adapter, self._adapter.canvas(arguments)
        size = Size(x.shape[-1], x.shape[-2])
        self.grid = self.grid_of(size)
        padded = self.grid.canvas
        if len(self.grid.tiles) == 1:
            return stock(*args, **given)
        tile, kinds = self.grid.tile, []

        def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
            asked = adapter.tiles(arguments, tiles, boxes, padded, self._view)
            # In place what came in place: other people's hooks look at `args`.
            answer = stock(*[asked.pop(name) for name in list(arguments)[: len(args)]], **asked)
            kinds.append(type(answer))
            return adapter.unpack(answer[0], tile)

        denoiser = TiledDenoiser(self.grid, self._batch, pad_last=self._pad_last)
        canvas = denoiser(mirrored(x, padded), call)[..., : size.height, : size.width]
        packed = adapter.pack(canvas)
        return (packed,) if issubclass(kinds[0], tuple) else kinds[0](sample=packed)

    def grid_of(self, size: Size) -> TileGrid:
        """The tiles of a canvas of `size` cells. An axis that must be cut is padded to whole multiples first."""
        even = size.ceil_to(self._adapter.multiple)
        padded = Size(
            even.width if size.width > self._tile else size.width,
            even.height if size.height > self._tile else size.height,
        )
        return elastic_grid(padded, tile_max=self._tile, overlap=self._overlap, multiple=self._adapter.multiple)


@functools.cache
def _tiling(base: type[nn.Module]) -> type[nn.Module]:
    """`base` with a `__call__` through the instance's engine. One per class: each new one would recompile graphs."""

    def __call__(self: nn.Module, *args: Any, **given: Any) -> Any:  # noqa: N807 - it becomes that method
        engine: PipelineTiles = vars(self)[ENGINE]
        return engine(functools.partial(base.__call__, self), args, given)

    return type(base.__name__, (base,), {"__call__": __call__, "__module__": base.__module__})
