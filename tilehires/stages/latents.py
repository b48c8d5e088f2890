"""Latents enlarged between two passes: A1111's latent upscalers."""

from __future__ import annotations

import numpy as np
import torch

from tilehires.geometry import Box, Size
from tilehires.stages.pixels import Passages, to_latents
from tilehires.tiling.engine import piece
from tilehires.upscalers.latent import LatentMode
from tilehires.upscalers.ring import margin

BORDER = 64  # pixels of the source beyond what the canvas shows, so that the enlarged latents cover it
REACH = 4  # cells that an interpolation sees


def enlarged(pixels: np.ndarray, size: Size, canvas: Size, upscaler: LatentMode, passages: Passages) -> torch.Tensor:
    """The latents of `pixels`, H×W×3 in [0, 1], interpolated by exactly what makes them `size`, then cut to the cells of
    `canvas`, which is `size` and more. Along the axes of `passages.wrap`, where both are equal, they are a ring.
    """
    (height, width), wrap, factor = pixels.shape[:2], passages.wrap, passages.model.vae_factor
    scale = (size.height / height, size.width / width)
    bordered = Size(int(np.ceil(canvas.width / scale[1])) + BORDER, int(np.ceil(canvas.height / scale[0])) + BORDER)
    bordered = bordered.ceil_to(BORDER)
    source = Size(width if wrap.x else bordered.width, height if wrap.y else bordered.height)
    latents, cells = to_latents(pixels, source, passages), canvas.divided(factor)
    x, left = margin(source.width // factor, cells.width, REACH) if wrap.x else (0, 0)
    y, top = margin(source.height // factor, cells.height, REACH) if wrap.y else (0, 0)
    framed = piece(latents, Box(-x, -y, latents.shape[-1] + x, latents.shape[-2] + y))
    latents = upscaler.upscale_by(framed, scale)
    return latents[..., top : top + cells.height, left : left + cells.width].contiguous()
