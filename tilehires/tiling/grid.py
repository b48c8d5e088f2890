"""The elastic grid: how a canvas is cut into overlapping tiles of one shape. Integers only, in cells; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tilehires.errors import ConfigError
from tilehires.geometry import OPEN, Box, Size, Wrap


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its place in row-major order and the part of the canvas it covers, in cells."""

    index: int
    box: Box


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one shape, `tile`, that together cover `canvas`; `xs` and `ys` are the starts of columns and rows.

    Along an axis of `wrap` the canvas is a ring: the last tiles reach beyond its end and go on at its beginning.
    """

    canvas: Size
    tile: Size
    xs: tuple[int, ...]
    ys: tuple[int, ...]
    wrap: Wrap = OPEN

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, row by row."""
        return tuple(Tile(index, self.box(index)) for index in range(len(self.xs) * len(self.ys)))

    def box(self, index: int) -> Box:
        """The place of the tile of that index."""
        row, column = divmod(index, len(self.xs))
        x, y = self.xs[column], self.ys[row]
        return Box(x, y, x + self.tile.width, y + self.tile.height)

    def boxes(self) -> list[Box]:
        """The places of the tiles, row by row; those that wrap around as their parts."""
        return [part for tile in self.tiles for part, _ in tile.box.wrapped(self.canvas)]

    @property
    def work(self) -> float:
        """R: cells computed ÷ cells of the canvas; 1.0 is a canvas in one piece."""
        return len(self.xs) * len(self.ys) * self.tile.pixels / self.canvas.pixels

    @classmethod
    def whole(cls, canvas: Size) -> TileGrid:
        """One tile that covers the canvas."""
        return cls(canvas, canvas, (0,), (0,))

    def scaled(self, factor: int) -> TileGrid:
        """The same cut of a canvas `factor` times as large, for instance in pixels instead of cells."""
        return TileGrid(
            Size(self.canvas.width * factor, self.canvas.height * factor),
            Size(self.tile.width * factor, self.tile.height * factor),
            tuple(x * factor for x in self.xs),
            tuple(y * factor for y in self.ys),
            self.wrap,
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    """A candidate cut of one axis: n tiles of `tile` cells."""

    n: int
    tile: int


def elastic_grid(
    canvas: Size,
    *,
    tile_max: int,
    tile_min: int | None = None,
    overlap: int,
    multiple: int = 8,
    cost: Callable[[int, int], float] | None = None,
    wrap: Wrap = OPEN,
) -> TileGrid:
    """Cut `canvas` into even tiles that overlap by at least `overlap`, at the least cost.

    All in cells. An axis of at most `tile_max` is one tile, whatever its length. A longer one gets n tiles of
    ⌈(L+(n−1)·overlap)/n⌉ cells, rounded up to `multiple`, their starts spread evenly on multiples, the last one flush
    with the edge. `tile_max` is rounded down and `overlap` up to a multiple. A longer axis of `wrap` gets its tiles
    around a ring, with as many overlaps as tiles.
    `cost(width, height)` is the work of one tile (its area when None): among the tile sizes from `tile_min` to
    `tile_max` the grid with the least total is chosen, fewest tiles first. Without `tile_min`, or where no size fits
    the range, an axis gets as few tiles as `tile_max` allows.
    Raises ConfigError when a cut axis is no multiple, when the overlap leaves a tile nothing of its own, or when the
    range is empty.
    """
    if canvas.width < 1 or canvas.height < 1:
        raise ConfigError(f"A canvas of {canvas} has nothing to tile.", hint="Give it at least one cell on each side.")
    if multiple < 1:
        raise ConfigError(f"multiple = {multiple} must be at least 1.", hint="Use 1 where alignment doesn't matter.")
    if overlap < 0:
        raise ConfigError(f"A tile overlap of {overlap} is negative.", hint="Set tiled.overlap to 0 or more.")
    if tile_min is not None and tile_min > tile_max:
        raise ConfigError(
            f"The smallest tile ({tile_min}) is larger than the largest ({tile_max}).",
            hint="Lower tiled.tile_min or raise tiled.tile_max.",
        )
    columns = _cuts(canvas.width, tile_max, tile_min, overlap, multiple, ring=wrap.x)
    rows = _cuts(canvas.height, tile_max, tile_min, overlap, multiple, ring=wrap.y)
    price = cost or _area
    column, row = min(
        ((c, r) for c in columns for r in rows),
        key=lambda cut: (cut[0].n * cut[1].n * price(cut[0].tile, cut[1].tile), cut[0].n * cut[1].n),
    )
    return TileGrid(
        canvas,
        Size(column.tile, row.tile),
        _starts(canvas.width, column, multiple, ring=wrap.x),
        _starts(canvas.height, row, multiple, ring=wrap.y),
        Wrap(wrap.x and column.n > 1, wrap.y and row.n > 1),
    )


def _area(width: int, height: int) -> float:
    return width * height


def _cuts(length: int, tile_max: int, tile_min: int | None, overlap: int, multiple: int, *, ring: bool) -> list[_Axis]:
    """The cuts of one axis to choose from; never empty."""
    if length <= tile_max:
        return [_Axis(1, length)]
    largest, shared = tile_max // multiple * multiple, -(-overlap // multiple) * multiple
    if shared >= largest:
        raise ConfigError(
            f"An overlap of {shared} leaves nothing of a tile of at most {largest} (both in multiples of {multiple}).",
            hint="Lower the overlap (tiled.overlap) to at most half of the tile, or raise tiled.tile_max.",
        )
    if length % multiple:
        raise ConfigError(
            f"A side of {length} must be cut into tiles but is no multiple of {multiple}.",
            hint=f"Pad the canvas to a multiple of {multiple}, or raise tiled.tile_max to {length} for a single tile.",
        )
    open_end = 0 if ring else 1  # a ring has an overlap more
    fewest = -(-(length - open_end * shared) // (largest - shared))
    cuts = [_Axis(fewest, _even_tile(length, fewest, (fewest - open_end) * shared, multiple))]
    if tile_min is None:
        return cuts
    n = fewest + 1
    while True:
        tile = _even_tile(length, n, (n - open_end) * shared, multiple)
        # Too small a tile, one with no cell of its own, or starts that would coincide: more tiles only make it worse.
        room = length - open_end * tile
        if tile < tile_min or tile <= shared or room < (n - open_end) * multiple:
            return cuts
        cuts.append(_Axis(n, tile))
        n += 1


def _even_tile(length: int, n: int, shared: int, multiple: int) -> int:
    """`shared`: the cells of all overlaps together."""
    return -(-(length + shared) // (n * multiple)) * multiple


def _starts(length: int, axis: _Axis, multiple: int, *, ring: bool) -> tuple[int, ...]:
    """Evenly spread starts on multiples; the last tile ends at `length`, or on a ring meets the first."""
    if axis.n == 1:
        return (0,)
    steps, gaps = (length // multiple, axis.n) if ring else ((length - axis.tile) // multiple, axis.n - 1)
    return tuple((2 * i * steps + gaps) // (2 * gaps) * multiple for i in range(axis.n))
