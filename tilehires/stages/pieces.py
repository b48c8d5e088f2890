"""How large the pieces of a detail pass are that go through its models at once: what batches and the planner go by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilehires.config.detail import DetailPass
from tilehires.geometry import Size
from tilehires.stages.crops import MULTIPLE, within

SPREAD = 1.3  # area of a crop at an aspect of its own ÷ area of the native square, at most (sides are multiples of 64)

NO_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Pieces:
    """Sizes in pixels, at most. `region`: of those that go through the UNet together; `alone`: of one that goes by itself;
    `tile`: of the tiles of a larger one, which go together. None: there is none. `vae`: of what passes the VAE, and whether
    in one piece.
    """

    region: Size | None
    alone: Size | None
    tile: Size | None
    vae: tuple[tuple[Size, bool], ...]


def usual(one: DetailPass, native: int, limit: int = 0) -> Size:
    """The size at which regions are repaired; a square of as many pixels, or more, where it depends on their aspects.

    `limit`: as crops.crop_of's.
    """
    if one.width and one.height:
        size = Size(one.width, one.height)
    elif one.guide_size:
        size = Size(one.max_size, one.guide_size)
    else:
        size = Size(native, native if one.match_size == "off" else math.ceil(native * SPREAD))
    return within(size.ceil_to(MULTIPLE), limit)


def pieces(one: DetailPass, size: Size, *, native: int, tile_max: int, whole_max: int, limit: int = 0) -> Pieces:
    """Those of a pass over an image of `size`. `tile_max`: the longest side of a tile; `whole_max`: of what the VAE takes in
    one piece."""
    work, canvas = usual(one, native, limit), size.ceil_to(MULTIPLE)
    together = work.pixels <= most(native, tile_max, limit)
    vae = [(work, work.long_side <= whole_max)]
    if together and one.large == "leave" and one.only_masked and not limit:
        return Pieces(work, None, None, tuple(vae))
    side = math.isqrt(most(native, tile_max, limit))
    alone, tile = Size(side, side), Size(tile_max, tile_max)
    if together:
        alone, tile = (Size(min(one.width, canvas.width), min(one.height, canvas.height)) for one in (alone, tile))
        vae.append((Size(min(canvas.width, whole_max), min(canvas.height, whole_max)), True))
        if canvas.long_side > whole_max:
            vae.append((canvas, False))
    return Pieces(work if together else None, alone, tile, tuple(found for found in vae if found[0].pixels))


def most(native: int, tile_max: int, limit: int = 0) -> int:
    """Pixels that go through the UNet in one piece."""
    longest = max(native, tile_max)
    return min(limit or longest, longest) ** 2
