"""Latents enlarged between two passes: A1111's latent upscalers."""

from __future__ import annotations

import numpy as np
import torch

from tilehires.geometry import Box, Size, Wrap
from tilehires.stages.pixels import Passages, to_latents
from tilehires.tiling.engine import mirrored, piece
from tilehires.upscalers.latent import LatentMode
from tilehires.upscalers.ring import margin

BORDER = 64  # pixels of the source beyond what the canvas shows, so that the enlarged latents cover it
REACH = 4  # cells that an interpolation sees


def enlarged(pixels: np.ndarray, size: Size, canvas: Size, upscaler: LatentMode, passages: Passages) -> torch.Tensor:
    """The latents of `pixels`, H×W×3 in [0, 1], as `enlarged_latents` makes them `size`."""
    (height, width), wrap = pixels.shape[:2], passages.wrap
    scale = (size.height / height, size.width / width)
    bordered = Size(int(np.ceil(canvas.width / scale[1])) + BORDER, int(np.ceil(canvas.height / scale[0])) + BORDER)
    bordered = bordered.ceil_to(BORDER)
    source = Size(width if wrap.x else bordered.width, height if wrap.y else bordered.height)
    latents, cells = to_latents(pixels, source, passages), canvas.divided(passages.model.vae_factor)
    return enlarged_latents(latents, scale, cells, upscaler, wrap)


def enlarged_latents(
    latents: torch.Tensor, scale: tuple[float, float], cells: Size, upscaler: LatentMode, wrap: Wrap
) -> torch.Tensor:
    """1×C×h×w, interpolated by exactly (vertical, horizontal) `scale`, then cut to `cells`.

    Along the axes of `wrap`, where the enlarged ones are just as many, they are a ring. Where they are too few, they are
    mirrored out beforehand.
    """
    height, width = latents.shape[-2:]
    right = 0 if wrap.x else _missing(width, scale[1], cells.width)
    below = 0 if wrap.y else _missing(height, scale[0], cells.height)
    latents = mirrored(latents, Size(width + right, height + below))
    x, left = margin(width, cells.width, REACH) if wrap.x else (0, 0)
    y, top = margin(height, cells.height, REACH) if wrap.y else (0, 0)
    framed = piece(latents, Box(-x, -y, latents.shape[-1] + x, latents.shape[-2] + y))
    made = upscaler.upscale_by(framed, scale)
    return made[..., top : top + cells.height, left : left + cells.width].contiguous()


def _missing(had: int, by: float, wanted: int) -> int:
    """How many cells more give `wanted` when they are enlarged `by` that."""
    return 0 if int(had * by) >= wanted else int(np.ceil(wanted / by)) + 1 - had
