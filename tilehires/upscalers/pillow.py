"""Pillow's resampling kernels, on float32 planes: no value passes through 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilehires.geometry import Size
from tilehires.progress import Progress
from tilehires.upscalers.protocol import OVERLAP, Models

Kernel = Image.Resampling


def resample(
    image: NDArray[np.float32],
    size: Size,
    kernel: Kernel = Kernel.LANCZOS,
    *,
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.float32]:
    """Resize H×W or H×W×C floats to `size`; `box` is the part of the image to take (x0, y0, x1, y1), fractions allowed.

    Kernels with negative lobes (Lanczos, bicubic) can leave the range of the values: clip where that matters.
    """
    if image.ndim == 2:
        plane = Image.fromarray(np.ascontiguousarray(image, np.float32))
        return np.array(plane.resize((size.width, size.height), kernel, box=box))
    out = np.empty((size.height, size.width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        out[..., channel] = resample(image[..., channel], size, kernel, box=box)
    return out


@dataclass(frozen=True)
class KernelUpscaler:
    """One kernel, in one piece: the memory is that of the output."""

    name: str
    kernel: Kernel
    latent: bool = False
    files: tuple[Path, ...] = ()

    def upscale(
        self,
        image: NDArray[np.float32],
        size: Size,
        *,
        tile: int = 512,
        overlap: int = OVERLAP,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """See `Upscaler.upscale`."""
        if progress:
            progress.begin(f"upscaling ({self.name})", 1)
        enlarged = resample(image, size, self.kernel)
        if progress:
            progress.advance()
        return np.clip(enlarged, 0.0, 1.0, out=enlarged)


def nearest(models: Models | None) -> KernelUpscaler:
    return KernelUpscaler("Nearest", Kernel.NEAREST)


def box(models: Models | None) -> KernelUpscaler:
    return KernelUpscaler("Box", Kernel.BOX)


def bilinear(models: Models | None) -> KernelUpscaler:
    return KernelUpscaler("Bilinear", Kernel.BILINEAR)


def hamming(models: Models | None) -> KernelUpscaler:
    return KernelUpscaler("Hamming", Kernel.HAMMING)


def bicubic(models: Models | None) -> KernelUpscaler:
    return KernelUpscaler("Bicubic", Kernel.BICUBIC)


def lanczos(models: Models | None) -> KernelUpscaler:
    """Also for A1111's "None", which resizes with Lanczos too."""
    return KernelUpscaler("Lanczos", Kernel.LANCZOS)
