"""Exact tiles for networks of a bounded receptive field: each tile sees all that its answer can depend on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn

from tilehires.errors import ConfigError
from tilehires.geometry import OPEN, Box, Size, Wrap
from tilehires.tiling.engine import piece
from tilehires.tiling.planes import Planes

POINTWISE = (nn.ReLU, nn.SiLU, nn.Mish, nn.GELU, nn.Identity)
REACH_OF_INTERPOLATION = {"nearest": 0, "nearest-exact": 0, "bilinear": 1, "bicubic": 2}


def halo(layers: nn.Module, needed: int = 0) -> int:
    """How many of its input's cells beyond each edge of a region decide that region of the output and `needed` more.

    Exact for regions whose edges lie on multiples of the network's strides; read from the modules themselves.
    Raises ConfigError for a layer whose reach isn't known (a norm over the whole canvas, attention).
    """
    if isinstance(layers, nn.Sequential):
        for layer in reversed(layers):
            needed = halo(layer, needed)
        return needed
    if isinstance(layers, nn.Conv2d):
        stride, kernel = max(layers.stride), max(layers.kernel_size)
        reach = max(layers.dilation) * (kernel - 1) + 1
        padding = 0 if isinstance(layers.padding, str) else min(layers.padding)
        before = (reach - 1) // 2 if layers.padding == "same" else max(map(int, layers.padding))
        return needed * stride + max(before, reach - stride - padding)
    if isinstance(layers, nn.Upsample) and layers.mode in REACH_OF_INTERPOLATION:
        factor = layers.scale_factor
        factor = min(factor) if isinstance(factor, tuple) else factor
        if factor:
            return -(-needed // int(factor)) + REACH_OF_INTERPOLATION[layers.mode]
    if isinstance(layers, AutoencoderTinyBlock):
        return max(halo(layers.conv, needed), halo(layers.skip, needed))
    if isinstance(layers, POINTWISE):
        return needed
    raise ConfigError(
        f"This VAE can't be tiled exactly: how far its {type(layers).__name__} layers see isn't known.",
        hint="Use memory.vae = 'whole', or a VAE of class AutoencoderTiny or AutoencoderKL.",
    )


def map_rows(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor | Planes,
    emit: Callable[[int, torch.Tensor], None],
    *,
    cells: Size,
    reach: int,
    tile: int,
    device: torch.device,
    dtype: torch.dtype,
    wrap: Wrap = OPEN,
) -> None:
    """Apply `function` to even tiles of `x` with a halo of `reach` cells; `emit(row, strip)` gets each finished row of
    tiles: float32, on the CPU, from top to bottom.

    `cells`: the canvas in latent cells; `x`, B×C×H×W on the CPU, and the answers are whole multiples of it. Tiles have
    at most `tile` cells a side without the halo. Only one tile at a time is on `device`. Along the axes of `wrap` the halo
    reaches around to the other side.
    """
    into = x.shape[-1] // cells.width
    for y0, y1 in _even(cells.height, tile):
        pieces, out_of = [], 1
        for x0, x1 in _even(cells.width, tile):
            core = Box(x0, y0, x1, y1)
            seen = _seen(core.pad(reach), cells, wrap)
            answer = function(piece(x, seen.scale(into)).to(device, dtype))
            out_of = answer.shape[-1] // seen.width
            inside = core.shift(-seen.x0, -seen.y0).scale(out_of)
            pieces.append(answer[(..., *inside.slices)].to("cpu", torch.float32))
        emit(y0 * out_of, torch.cat(pieces, -1))


def _seen(box: Box, cells: Size, wrap: Wrap) -> Box:
    """Clipped, but along the axes of `wrap`."""
    inside = box.clip(cells)
    x = (box.x0, box.x1) if wrap.x else (inside.x0, inside.x1)
    y = (box.y0, box.y1) if wrap.y else (inside.y0, inside.y1)
    return Box(x[0], y[0], x[1], y[1])


def _even(length: int, most: int) -> list[tuple[int, int]]:
    """Even intervals of at most `most`: no sliver at the end."""
    n = -(-length // most)
    return list(pairwise(i * length // n for i in range(n + 1)))
