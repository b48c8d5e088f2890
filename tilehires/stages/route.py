"""Which sizes an image passes through: pure arithmetic, shared by `plan` and `run`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilehires.config.settings import HiresSettings
from tilehires.errors import ImageError
from tilehires.geometry import Box, Size

STEP = 2.0  # the largest factor of one step: beyond it a second pass invents instead of sharpening


@dataclass(frozen=True, slots=True)
class Step:
    """One upscale to `size` with its second pass; `name` is "hires" or "tiled.N". `crop`: the part of it that leaves the step."""

    name: str
    size: Size
    crop: Box


@dataclass(frozen=True, slots=True)
class Route:
    """From `source` through `steps`. Only the last step crops. Without steps a first pass is all there is."""

    source: Size
    steps: tuple[Step, ...]

    @property
    def target(self) -> Size:
        """The output's size."""
        return self.steps[-1].crop.size if self.steps else self.source

    @property
    def cropped(self) -> bool:
        """Whether the last step makes more than leaves it."""
        return self.steps[-1].crop.size != self.steps[-1].size

    @property
    def frame(self) -> Box:
        """The part of the source that the output shows, grown to whole source pixels."""
        last = self.steps[-1]
        return last.crop.scale(self.source.width / last.size.width).clip(self.source)


def route(source: Size, hires: HiresSettings, *, max_pixels: int) -> Route:
    """Plan the way of an image of size `source`.

    A factor s > 2 is split into the fewest equal steps of at most 2, so that 4x and 8x share their first steps.
    Raises ImageError when the output would have more than `max_pixels`.
    """
    cover, crop = _target(source, hires)
    if cover.pixels > max_pixels:
        raise ImageError(
            f"The output would be {cover}: {cover.pixels:,} pixels, more than run.max_pixels = {max_pixels:,}.",
            hint="Lower --scale, cap it with --max-side, or raise it with --set run.max_pixels=N.",
        )
    factor = max(cover.width / source.width, cover.height / source.height)
    # The subtracted hair keeps 4x at two steps when rounding made the factor 4.0000001.
    count = max(1, math.ceil(math.log2(factor) - 1e-3)) if factor > STEP else 1
    sizes = [source.scaled(factor ** (i / count)) for i in range(1, count)] + [cover]
    names = ["hires", *(f"tiled.{i}" for i in range(1, count))]
    crops = [Box.of(size) for size in sizes[:-1]] + [crop]
    return Route(source, tuple(Step(*parts) for parts in zip(names, sizes, crops, strict=True)))


def _target(source: Size, hires: HiresSettings) -> tuple[Size, Box]:
    """The size the last step makes, and what is kept of it."""
    if hires.resize_x and hires.resize_y:
        asked = _capped(hires.resize_x, hires.resize_y, hires)
        factor = max(asked.width / source.width, asked.height / source.height)
        cover = Size(max(asked.width, source.scaled(factor).width), max(asked.height, source.scaled(factor).height))
        x, y = (cover.width - asked.width) // 2, (cover.height - asked.height) // 2
        return cover, Box(x, y, x + asked.width, y + asked.height)
    factor = hires.scale
    if hires.resize_x:
        factor = hires.resize_x / source.width
    elif hires.resize_y:
        factor = hires.resize_y / source.height
    size = _capped(source.width * factor, source.height * factor, hires)
    return size, Box.of(size)


def _capped(width: float, height: float, hires: HiresSettings) -> Size:
    """Shrunk, aspect kept, until both caps hold, and rounded once: down where rounding to nearest would break a cap."""
    size, factor = _rounded(width, height), 1.0
    if hires.max_side and size.long_side > hires.max_side:
        factor = hires.max_side / max(width, height)
    if hires.max_megapixels and size.pixels * factor**2 > hires.max_megapixels * 1e6:
        factor = min(factor, math.sqrt(hires.max_megapixels * 1e6 / (width * height)))
    if factor == 1.0:
        return size
    small = _rounded(width * factor, height * factor)
    if hires.max_megapixels and small.pixels > hires.max_megapixels * 1e6:
        return Size(max(1, math.floor(width * factor)), max(1, math.floor(height * factor)))
    return small


def _rounded(width: float, height: float) -> Size:
    """To nearest, halves up, at least 1, as Size.scaled."""
    return Size(max(1, math.floor(width + 0.5)), max(1, math.floor(height + 0.5)))
