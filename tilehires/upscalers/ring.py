"""An upscaler on a picture that goes on at its other side: the margins it sees there are cut off afterwards."""

from __future__ import annotations

import math

import numpy as np

from tilehires.geometry import Box, Size, Wrap
from tilehires.progress import Progress
from tilehires.scratch import Scratch
from tilehires.upscalers.protocol import OVERLAP, Pixels, Upscaler


def upscale(
    upscaler: Upscaler,
    image: Pixels,
    size: Size,
    wrap: Wrap,
    *,
    tile: int,
    progress: Progress,
    scratch: Scratch,
) -> Pixels:
    """As `Upscaler.upscale`; along the axes of `wrap` the answer's edges meet as those of `image` do."""
    height, width = image.shape[:2]
    if not (wrap.x or wrap.y):
        out = scratch.zeros((size.height, size.width, 3))
        return upscaler.upscale(image, size, tile=tile, progress=progress, out=out)
    x, over_x = margin(width, size.width, OVERLAP) if wrap.x else (0, 0)
    y, over_y = margin(height, size.height, OVERLAP) if wrap.y else (0, 0)
    framed = np.pad(image, ((y, y), (x, x), (0, 0)), mode="wrap")
    larger = Size(size.width + 2 * over_x, size.height + 2 * over_y)
    out = scratch.zeros((larger.height, larger.width, 3))
    made = upscaler.upscale(framed, larger, tile=tile, progress=progress, out=out)
    return made[Box.of(size).shift(over_x, over_y).slices]


def margin(source: int, target: int, least: int) -> tuple[int, int]:
    """(before, enlarged): the narrowest margin of at least `least` that `target` ÷ `source` enlarges to a whole number."""
    step = source // math.gcd(source, target)
    before = -(-least // step) * step
    return before, before * target // source
