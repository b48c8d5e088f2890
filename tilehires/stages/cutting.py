"""The tile grid of a pass: settings in pixels, the model's multiples, and what can't go together said in pixels."""

from __future__ import annotations

from tilehires.config.settings import TiledSettings
from tilehires.diffusion.family import Family
from tilehires.errors import ConfigError
from tilehires.geometry import OPEN, Size, Wrap
from tilehires.tiling.grid import TileGrid, elastic_grid


def tile_range(tiled: TiledSettings, family: Family) -> tuple[int, int]:
    """(tile_min, tile_max) in pixels: the family's where they are left open, and one that is set moves the other's."""
    smallest, largest = tiled.tile_min or family.tile_min, tiled.tile_max or family.tile_max
    return (
        smallest if tiled.tile_min else min(smallest, largest),
        largest if tiled.tile_max else max(smallest, largest),
    )


def cut(
    canvas: Size, *, tile_min: int, tile_max: int, overlap: int, factor: int, family: Family, wrap: Wrap = OPEN
) -> TileGrid:
    """The cheapest grid over `canvas`, in cells of `factor` pixels; all arguments in pixels. `wrap`: its axes that are rings.

    Raises ConfigError where the canvas must be cut and tile and overlap, as multiples of what the model needs, leave a
    tile nothing of its own.
    """
    least = family.multiple * factor
    largest, shared = tile_max // least * least, -(-overlap // least) * least
    if canvas.long_side > tile_max and largest == 0:
        raise ConfigError(
            f"tiled.tile_max = {tile_max} is too small: this model's tiles are multiples of {least} pixels.",
            hint=f"Set tiled.tile_max to {least} or more, or leave it away.",
        )
    if canvas.long_side > tile_max and shared >= largest:
        raise ConfigError(
            f"tiled.overlap = {overlap} leaves nothing of tiles of at most tiled.tile_max = {tile_max} pixels "
            f"(counted in this model's multiples of {least}: {shared} and {largest}).",
            hint=f"Lower tiled.overlap, best to {largest // 4} or less, or raise tiled.tile_max.",
        )
    return elastic_grid(
        canvas.divided(factor),
        tile_max=tile_max // factor,
        tile_min=tile_min // factor,
        overlap=-(-overlap // factor),
        multiple=family.multiple,
        cost=family.cost,
        wrap=wrap,
    )
