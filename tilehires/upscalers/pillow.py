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

STRIP = 4096 * 4096  # pixels of one channel that are made at a time


def resample(
    image: NDArray[np.float32],
    size: Size,
    kernel: Kernel = Kernel.LANCZOS,
    *,
    box: tuple[float, float, float, float] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Resize H×W or H×W×C floats to `size`; `box` is the part of the image to take (x0, y0, x1, y1), fractions allowed.

    `out`: an array of that size to write into, for H×W×C; beyond it and one channel of the image only strips are held.
    Kernels with negative lobes (Lanczos, bicubic) can leave the range of the values: clip where that matters.
    """
    if image.ndim == 2:
        plane = Image.fromarray(np.ascontiguousarray(image, np.float32))
        return np.array(plane.resize((size.width, size.height), kernel, box=box))
    if out is None:
        out = np.empty((size.height, size.width, image.shape[2]), np.float32)
    x0, y0, x1, y1 = box or (0, 0, image.shape[1], image.shape[0])
    # Kernels with edges decide by how a coordinate is rounded, which differs between strips.
    rows = size.height if kernel in (Kernel.NEAREST, Kernel.BOX) else max(1, STRIP // size.width)
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel], np.float32))
        for a in range(0, size.height, rows):
            b = min(a + rows, size.height)
            # The kernel reads beyond the box it is given, to the image's borders: strips join without a seam.
            top, bottom = (y1 if row == size.height else y0 + (y1 - y0) * row / size.height for row in (a, b))
            strip = plane.resize((size.width, b - a), kernel, box=(x0, top, x1, bottom))
            out[a:b, :, channel] = np.asarray(strip)
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
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """See `Upscaler.upscale`."""
        if progress:
            progress.begin(f"upscaling ({self.name})", 1)
        enlarged = resample(image, size, self.kernel, out=out)
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
