"""A1111's six latent modes: torch's interpolation of the latents between two passes (names and modes of its v1.10)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tilehires.geometry import Size
from tilehires.progress import Progress
from tilehires.upscalers.protocol import OVERLAP, Models


@dataclass(frozen=True)
class LatentMode:
    """One interpolation. Latents blurred by it need a denoise of 0.5 or more to become sharp again."""

    name: str
    mode: str
    antialias: bool = False
    latent: bool = True
    files: tuple[Path, ...] = ()

    def upscale_latents(self, latents: torch.Tensor, cells: Size) -> torch.Tensor:
        """Latents B×C×H×W at `cells`, float32 on their device."""
        # torch knows antialias for these two modes only, and refuses the argument's truth elsewhere.
        return functional.interpolate(
            latents.float(), size=(cells.height, cells.width), mode=self.mode, antialias=self.antialias
        )

    def upscale_by(self, latents: torch.Tensor, scale: tuple[float, float]) -> torch.Tensor:
        """Latents B×C×H×W, enlarged by exactly (vertical, horizontal) `scale`: cell i lies where i·scale says, whatever the size.

        Returns B×C×⌊H·s⌋×⌊W·s⌋, float32. Rounding the factor to whole cells instead would shift the far edge.
        """
        return functional.interpolate(
            latents.float(), scale_factor=scale, mode=self.mode, antialias=self.antialias, recompute_scale_factor=False
        )

    def upscale(
        self,
        image: NDArray[np.float32],
        size: Size,
        *,
        tile: int = 512,
        overlap: int = OVERLAP,
        progress: Progress | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The same interpolation of pixels, for where nothing is sampled afterwards. See `Upscaler.upscale`."""
        if progress:
            progress.begin(f"upscaling ({self.name})", 1)
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        enlarged = self.upscale_latents(planes, size)[0].clamp_(0, 1)
        if progress:
            progress.advance()
        pixels = enlarged.numpy().transpose(1, 2, 0)
        if out is None:
            return np.ascontiguousarray(pixels)
        out[:] = pixels
        return out


def bilinear(models: Models | None) -> LatentMode:
    return LatentMode("Latent", "bilinear")


def bilinear_antialiased(models: Models | None) -> LatentMode:
    return LatentMode("Latent (antialiased)", "bilinear", antialias=True)


def bicubic(models: Models | None) -> LatentMode:
    return LatentMode("Latent (bicubic)", "bicubic")


def bicubic_antialiased(models: Models | None) -> LatentMode:
    return LatentMode("Latent (bicubic antialiased)", "bicubic", antialias=True)


def nearest(models: Models | None) -> LatentMode:
    return LatentMode("Latent (nearest)", "nearest")


def nearest_exact(models: Models | None) -> LatentMode:
    return LatentMode("Latent (nearest-exact)", "nearest-exact")
