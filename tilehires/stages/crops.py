"""Where a region is cut out, at which size it is repaired, and how it is put back: arithmetic and pixels, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tilehires.config.detail import DetailPass
from tilehires.geometry import Box, Size
from tilehires.stages.regions import Region

MULTIPLE = 64
# The sizes that SDXL was trained at (Podell et al. 2023, appendix I), by aspect; the nearest to a crop's is taken.
SDXL = (
    *((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216)),
    *((1344, 768), (768, 1344), (1536, 640), (640, 1536)),
)
RING = 6  # pixels around a mask's soft edge on which colours are compared
FAINT = 1 / 512  # a mask below this changes no 8-bit level

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """`box`: the part of the image that the model sees; `work`: the size at which it sees it."""

    box: Box
    work: Size


def crop_of(region: Region, settings: DetailPass, size: Size, native: int, limit: int = 0) -> Crop | str:
    """How to cut a region out of an image of `size`, or why it is left alone: then a fate.

    The crop is `crop_factor` times the box but holds at least `padding` around it and the whole mask; it is never worked
    on below its own size: first its surroundings shrink, and what is then still larger than the model's size is left.
    Without `only_masked` the crop is the image. `limit`: the longest side of what is worked on, where that still holds the
    region; 0 for none.
    """
    if not settings.only_masked:
        return Crop(Box.of(size), size.ceil_to(MULTIPLE))
    box, place = region.box, region.place
    least = Box.around(box.pad(settings.padding), place).clip(size)
    reach_x = math.ceil(box.width * (settings.crop_factor - 1) / 2)
    reach_y = math.ceil(box.height * (settings.crop_factor - 1) / 2)
    grown = Box(box.x0 - reach_x, box.y0 - reach_y, box.x1 + reach_x, box.y1 + reach_y)
    wanted = Box.around(grown, least).clip(size)
    work = _work(settings, wanted, native)
    small = within(work, limit)
    if least.width <= small.width and least.height <= small.height:
        work = small
    if least.width > work.width or least.height > work.height:
        if settings.large == "leave":
            return f"already large ({box.size} in {work})"
        return Crop(least, least.size.ceil_to(MULTIPLE))
    room = Size(min(wanted.width, work.width), min(wanted.height, work.height))
    return Crop(_to_aspect(_shrunk(wanted, least, room), work, size), work)


def within(size: Size, longest: int) -> Size:
    """`size`, or where it is longer a smaller one of about its aspect, in the same multiples. 0: no limit."""
    if not longest or size.long_side <= longest:
        return size
    width, height = (
        max(MULTIPLE, side * longest // size.long_side // MULTIPLE * MULTIPLE) for side in (size.width, size.height)
    )
    return Size(width, height)


def _work(settings: DetailPass, crop: Box, native: int) -> Size:
    if settings.width and settings.height:
        return Size(settings.width, settings.height).ceil_to(MULTIPLE)
    if settings.guide_size:
        scale = min(settings.guide_size / min(crop.width, crop.height), settings.max_size / crop.size.long_side)
        return Size(max(1, round(crop.width * scale)), max(1, round(crop.height * scale))).ceil_to(MULTIPLE)
    aspect = crop.width / crop.height
    if settings.match_size == "strict":
        scale = native / 1024
        width, height = min(SDXL, key=lambda s: (abs(math.log(s[0] / s[1] / aspect)), s))
        return Size(round(width * scale), round(height * scale)).ceil_to(MULTIPLE)
    if settings.match_size == "free":
        # As many pixels as the native square has.
        return Size(round(native * math.sqrt(aspect)), round(native / math.sqrt(aspect))).ceil_to(MULTIPLE)
    return Size(native, native).ceil_to(MULTIPLE)


def _shrunk(wanted: Box, least: Box, room: Size) -> Box:
    """`wanted` cut down to `room`, still around `least`, as centred on it as that allows."""

    def axis(a0: int, a1: int, b0: int, b1: int, length: int) -> tuple[int, int]:
        start = min(max((b0 + b1 - length) // 2, a0), a1 - length)
        start = min(max(start, b1 - length), b0)
        return start, start + length

    x0, x1 = axis(wanted.x0, wanted.x1, least.x0, least.x1, max(room.width, least.width))
    y0, y1 = axis(wanted.y0, wanted.y1, least.y0, least.y1, max(room.height, least.height))
    return Box(x0, y0, x1, y1)


def _to_aspect(crop: Box, work: Size, size: Size) -> Box:
    """One axis grown to the working aspect, shifted so that it stays inside; as far as the image reaches."""
    width = min(size.width, max(crop.width, round(crop.height * work.width / work.height)))
    height = min(size.height, max(crop.height, round(crop.width * work.height / work.width)))
    width, height = min(width, max(work.width, crop.width)), min(height, max(work.height, crop.height))
    x0 = min(max(crop.x0 - (width - crop.width) // 2, 0), size.width - width)
    y0 = min(max(crop.y0 - (height - crop.height) // 2, 0), size.height - height)
    return Box(x0, y0, x0 + width, y0 + height)


def resized(pixels: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """H×W or H×W×C at another size: Lanczos up, area down."""
    if (pixels.shape[1], pixels.shape[0]) == (size.width, size.height):
        return pixels
    down = size.width < pixels.shape[1] or size.height < pixels.shape[0]
    how = cv2.INTER_AREA if down else cv2.INTER_LANCZOS4
    return np.asarray(
        cv2.resize(np.ascontiguousarray(pixels), (size.width, size.height), interpolation=how), np.float32
    )


def mask_in(region: Region, crop: Crop) -> NDArray[np.float32]:
    """The region's hard mask over its crop."""
    mask = np.zeros((crop.box.height, crop.box.width), np.float32)
    inside = region.place.shift(-crop.box.x0, -crop.box.y0).clip(crop.box.size)
    part = inside.shift(crop.box.x0 - region.place.x0, crop.box.y0 - region.place.y0)
    mask[inside.slices] = region.mask[part.slices]
    return mask


def soft(mask: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A mask with a Gaussian edge (a kernel of 2·int(2.5σ+0.5)+1, A1111's); exactly 0 where it is too faint to matter."""
    if sigma <= 0:
        return mask
    side = 2 * int(2.5 * sigma + 0.5) + 1
    blurred = np.asarray(cv2.GaussianBlur(mask, (side, side), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    return np.where(blurred < FAINT, np.float32(0), np.minimum(blurred, np.float32(1)))


def matched(repaired: Pixels, before: Pixels, mask: NDArray[np.float32]) -> Pixels:
    """`repaired` with the tone of `before` on a ring around the mask: what a VAE's round trip and sampling shift as a whole.

    All over one crop. Without a ring (the mask fills the crop) nothing is known of its surroundings, and nothing is done.
    """
    covered = (mask > 0).astype(np.uint8)
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    ring = (np.asarray(cv2.dilate(covered, kernel)) > 0) & (mask < 0.5)
    if ring.sum() < 16:
        return repaired
    # The median: an edge that was repainted on the ring must not tint the whole region.
    return repaired + np.median(before[ring] - repaired[ring], axis=0).astype(np.float32)


def paste(image: Pixels, repaired: Pixels, crop: Crop, mask: NDArray[np.float32]) -> None:
    """Put a repaired crop into `image`, in place, under its soft mask; where that is 0 no bit changes."""
    target = image[crop.box.slices]
    inside = mask > 0
    share = mask[inside][:, None]
    target[inside] = np.clip(target[inside] * (1 - share) + repaired[inside] * share, 0, 1)


def overlaps(a: Crop, b: Crop) -> bool:
    """Whether two crops share a pixel: then the later one must see the earlier one's repair."""
    return a.box.x0 < b.box.x1 and b.box.x0 < a.box.x1 and a.box.y0 < b.box.y1 and b.box.y0 < a.box.y1
