"""Flow matching's shift by resolution, kept to that of a tile.

These families noise large images more: at 4096² the stock formula starts at sigma 1.0 for strength 0.3, and nothing is
left of the input. What the model sees are tiles, so theirs is the shift. A pipeline lays out its sigmas before the
denoiser first sees the canvas: hence the call's own arguments are looked at, and the canvas they tell is taken only
when it explains the very shift that the pipeline asked for.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from PIL import Image

from tilehires.geometry import Size
from tilehires.tiling.adapters import Adapter
from tilehires.tiling.grid import TileGrid

CALL = "_tilehires_call"


@contextlib.contextmanager
def tile_shift(pipe: Any, adapter: Adapter, grid_of: Callable[[Size], TileGrid], largest: Size) -> Iterator[None]:
    """While open, `pipe`'s scheduler is told the shift of the tile that `grid_of(canvas)` cuts, all in cells.

    A canvas of one tile keeps its own shift, and so does a call with `mu` of its own. Where the canvas can't be known
    (a loop of the user's own) the shift is at most that of a tile of the `largest` size.
    """
    scheduler = getattr(pipe, "scheduler", None)
    config: Mapping[str, Any] = getattr(scheduler, "config", {})
    if scheduler is None or not config.get("use_dynamic_shifting"):
        yield
        return
    stock = scheduler.set_timesteps
    signature = inspect.signature(stock)

    def of_tile(mu: float, laid_out: int) -> float:
        call = vars(pipe).get(CALL, {})
        if call.get("mu") is not None:
            return mu
        steps = call.get("num_inference_steps", laid_out)  # a list of sigmas may be of another length
        for canvas in _canvases(pipe, adapter, call):
            if abs(adapter.mu(_tokens(canvas, adapter), steps, config) - mu) < 1e-9:
                grid = grid_of(canvas)
                return mu if len(grid.tiles) == 1 else adapter.mu(_tokens(grid.tile, adapter), steps, config)
        return min(mu, adapter.mu(_tokens(largest, adapter), steps, config))

    @functools.wraps(stock)  # pipelines look at its signature
    def set_timesteps(*args: Any, **given: Any) -> Any:
        bound = signature.bind(*args, **given)
        asked = bound.arguments
        if asked.get("mu") is not None:
            listed = [len(asked[name]) for name in ("sigmas", "timesteps") if asked.get(name) is not None]
            asked["mu"] = of_tile(asked["mu"], asked.get("num_inference_steps") or max(listed, default=0))
        return stock(*bound.args, **bound.kwargs)

    scheduler.set_timesteps = set_timesteps
    try:
        with _noting_calls(pipe):
            yield
    finally:
        del scheduler.set_timesteps


def _canvases(pipe: Any, adapter: Adapter, call: Mapping[str, Any]) -> Iterator[Size]:
    """What the canvas may measure, in cells: sides as asked for, of the image, or the pipeline's default."""
    factor = getattr(pipe, "vae_scale_factor", 8)
    cell = 2 * factor // adapter.cells_per_token  # a token is 2×2 latents in all of these families
    image = _image_size(call.get("image"))
    default = getattr(pipe, "default_sample_size", 1024 // factor)
    default = default * factor if isinstance(default, int) else 1024
    heights = _sides(call.get("height"), image.height if image else None, default)
    widths = _sides(call.get("width"), image.width if image else None, default)
    for height in heights:
        for width in widths:
            if min(width, height) >= cell:
                yield Size(width // cell, height // cell)


def _sides(asked: int | None, image: int | None, default: int) -> Iterable[int]:
    return (int(asked),) if asked else tuple(side for side in (image, default) if side)


def _image_size(image: Any) -> Size | None:
    """Of a PIL image, or of a tensor or array with its sides last but for colours; of the first in a list."""
    if isinstance(image, list | tuple):
        return _image_size(image[0]) if image else None
    if isinstance(image, Image.Image):
        return Size(*image.size)
    shape: tuple[int, ...] = tuple(getattr(image, "shape", ()))
    if len(shape) < 3:
        return None
    height, width = shape[-3:-1] if shape[-1] <= 4 else shape[-2:]
    return Size(int(width), int(height))


def _tokens(cells: Size, adapter: Adapter) -> int:
    side = adapter.cells_per_token
    return (cells.width // side) * (cells.height // side)


@contextlib.contextmanager
def _noting_calls(pipe: Any) -> Iterator[None]:
    """While open, the arguments of a call of `pipe` stand in its `CALL` as long as it runs."""
    base = type(pipe)
    if not callable(pipe):
        yield
        return
    object.__setattr__(pipe, "__class__", _noting(base))  # past the pipeline's own __setattr__
    try:
        yield
    finally:
        object.__setattr__(pipe, "__class__", base)


@functools.cache
def _noting(base: type) -> type:
    signature = inspect.signature(base.__call__)

    @functools.wraps(base.__call__)
    def __call__(self: Any, *args: Any, **given: Any) -> Any:  # noqa: N807 - it becomes that method
        bound = signature.bind_partial(self, *args, **given)
        bound.apply_defaults()
        vars(self)[CALL] = bound.arguments
        try:
            return base.__call__(self, *args, **given)
        finally:
            del vars(self)[CALL]

    return type(base.__name__, (base,), {"__call__": __call__, "__module__": base.__module__})
