"""The broad tones a pass must keep: those of the picture that goes in, at the size that comes out."""

from __future__ import annotations

import numpy as np

from tilehires.geometry import Size
from tilehires.tiling.lock import Band, LowBand, low_band
from tilehires.upscalers.pillow import resample

ROWS = 512


def tones(pixels: np.ndarray, size: Size) -> Band:
    """The low band (tiling.lock) of float32 HWC `pixels`, enlarged to `size` by Lanczos where they haven't it yet.

    Latent upscalers leave no picture of that size; it is made and let go in strips.
    """
    height, width = pixels.shape[:2]
    if Size(width, height) == size:
        return low_band(pixels)
    gathered, scale = LowBand(size), height / size.height
    for row in range(0, size.height, ROWS):
        end = min(row + ROWS, size.height)
        strip = resample(pixels, Size(size.width, end - row), box=(0, row * scale, width, min(end * scale, height)))
        gathered.put(row, strip.clip(0, 1))
    return gathered.band()
