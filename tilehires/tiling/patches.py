"""Where the peers' sequential modes redraw: patches with masks, for tiles and for the seams between them. Pixels; no torch.

The modes are those of Ultimate SD Upscale (linear, chess; band, half tile, half tile + intersections), with two faults mended.
There a tile fades out over neighbours that aren't drawn yet, so that up to a quarter of the old picture shows through along
every edge: here it covers them, and they fade in over it. There a band is one crop of the picture's whole height: here it
is cut where the tiles are, and no crop is larger than a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling.grid import TileGrid

Order = Literal["linear", "chess"]
SeamFix = Literal["none", "band", "half", "half+intersections"]
Profile = NDArray[np.float32]
REACH = 2.77  # a raised cosine that ends this many sigmas out has a Gaussian's spread


@dataclass(frozen=True, slots=True)
class Lines:
    """Where tiles meet: the positions of vertical lines (xs) and of horizontal ones (ys), inside the picture."""

    xs: tuple[int, ...]
    ys: tuple[int, ...]

    @classmethod
    def of(cls, grid: TileGrid, size: Size) -> Lines:
        """The middles of the overlaps of a grid in pixels, as far as they lie inside a picture of `size`."""
        xs, ys = (
            [(second + first + tile) // 2 for first, second in pairwise(starts)]
            for starts, tile in ((grid.xs, grid.tile.width), (grid.ys, grid.tile.height))
        )
        return cls(tuple(x for x in xs if x < size.width), tuple(y for y in ys if y < size.height))


@dataclass(frozen=True, eq=False)
class Span:
    """A patch along one axis: its own part [start, end), what the model sees [low, high), the mask over that."""

    start: int
    end: int
    low: int
    high: int
    mask: Profile


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of the picture that is redrawn by itself."""

    row: Span
    column: Span

    @property
    def box(self) -> Box:
        """Its own part; the mask may reach beyond, to blend."""
        return Box(self.column.start, self.row.start, self.column.end, self.row.end)

    @property
    def crop(self) -> Box:
        """What the model sees of the picture, or of its mirror image beyond the right and the lower edge."""
        return Box(self.column.low, self.row.low, self.column.high, self.row.high)

    @property
    def mask(self) -> Profile:
        """How much of the new is taken, h×w of the crop, in [0, 1]."""
        return np.multiply.outer(self.row.mask, self.column.mask)


@dataclass(frozen=True)
class Easel:
    """What patches are cut from and how: `size` the picture's, `canvas` the one it is padded to, `tile` the most a crop measures.

    Starts of crops and edges of tiles are multiples of `unit` (the VAE's factor), sides of crops of `multiple`, so that the
    model gets them as they are: nothing is resampled. `padding`: what a patch sees beyond itself. `blur`: σ of its mask's
    edges, which end within two thirds of the padding.
    """

    size: Size
    canvas: Size
    tile: int
    unit: int
    multiple: int
    padding: int
    blur: float
    setting: str = "tiled.redraw_padding"

    @property
    def margin(self) -> int:
        """The padding in whole units."""
        return -(-self.padding // self.unit) * self.unit

    @property
    def most(self) -> int:
        """The longest side of a patch without its padding. Raises ConfigError when the padding leaves nothing."""
        most = self.tile // self.multiple * self.multiple - 2 * self.margin
        if most < self.multiple:
            raise ConfigError(
                f"{self.setting} = {self.padding} leaves nothing of a tile of at most {self.tile} pixels.",
                hint=f"Lower {self.setting}, or raise tiled.tile_max.",
            )
        return most

    def fade(self, edges: Sequence[int]) -> float:
        """Half the width of a mask's edge, in pixels, for patches between `edges`."""
        return min(REACH * self.blur, self.padding * 2 / 3, min(b - a for a, b in pairwise(edges)) / 2)

    def crop(self, start: int, end: int, limit: int, longest: int = 0) -> tuple[int, int]:
        """What the model sees around [start, end), inside [0, limit): a crop that would fit a patch of `longest` as well."""
        start, end = start // self.unit * self.unit, -(-end // self.unit) * self.unit
        needed = max(end - start, longest) + 2 * self.margin
        side = min(-(-needed // self.multiple) * self.multiple, limit)
        spare = (side - (end - start) - 2 * self.margin) // 2 // self.unit * self.unit
        low = min(max(start - self.margin - spare, 0), limit - side)
        return low, low + side


def tile_patches(easel: Easel, order: Order) -> tuple[Lines, tuple[Patch, ...]]:
    """Even tiles that touch, in the order they are redrawn: row by row, or the fields of a chessboard, one colour first.

    Wherever a pixel lies, the masks leave nothing of what was there before. Raises ConfigError as Easel.most.
    """
    columns, rows = (_edges(side, easel.most, easel.unit) for side in (easel.size.width, easel.size.height))
    places = [(y, x) for y in range(len(rows) - 1) for x in range(len(columns) - 1)]
    if order == "chess":
        places.sort(key=lambda place: sum(place) % 2)
    turn = {place: i for i, place in enumerate(places)}

    def later(place: tuple[int, int], than: tuple[int, int]) -> bool:
        return turn.get(place, -1) > turn[than]

    @cache  # of thousands of tiles no more than four in a row differ
    def row(y: int, later: tuple[bool, bool]) -> Span:
        return _span(easel, rows, y, easel.canvas.height, later)

    @cache
    def column(x: int, later: tuple[bool, bool]) -> Span:
        return _span(easel, columns, x, easel.canvas.width, later)

    patches = []
    for y, x in places:
        beside = (later((y, x - 1), (y, x)), later((y, x + 1), (y, x)))
        above = (later((y - 1, x), (y, x)), later((y + 1, x), (y, x)))
        patches.append(Patch(row(y, above), column(x, beside)))
    return Lines(tuple(columns[1:-1]), tuple(rows[1:-1])), tuple(patches)


def seam_patches(easel: Easel, lines: Lines, mode: SeamFix, width: int) -> tuple[Patch, ...]:
    """Patches over the lines where tiles meet, in the order they are redrawn.

    "band": `width` pixels across each line. "half": to the middles of the tiles on both sides, as far as a crop may
    reach. "half+intersections": once more over each crossing. Across a line the mask falls from 1 to 0 as a raised cosine.
    Raises ConfigError when `width` doesn't fit a tile, and as Easel.most.
    """
    if mode == "none":
        return ()
    if mode == "band" and -(-width // 2 // easel.unit) * 2 * easel.unit > easel.most:
        raise ConfigError(
            f"tiled.seam_width = {width} and twice tiled.seam_padding = {easel.padding} don't fit a tile of {easel.tile}.",
            hint="Lower tiled.seam_width or tiled.seam_padding, or raise tiled.tile_max.",
        )
    size, canvas, wide = easel.size, easel.canvas, width if mode == "band" else None
    at_x, at_y = (
        _across(easel, lines.xs, size.width, canvas.width, wide),
        _across(easel, lines.ys, size.height, canvas.height, wide),
    )
    along_x = _along(easel, pieces(easel, lines.xs, size.width), canvas.width)
    along_y = _along(easel, pieces(easel, lines.ys, size.height), canvas.height)
    vertical = [Patch(row, column) for column in at_x for row in along_y]
    horizontal = [Patch(row, column) for row in at_y for column in along_x]
    if mode == "band":
        return (*vertical, *horizontal)
    crossings = [Patch(row, column) for row in at_y for column in at_x] if mode == "half+intersections" else []
    return (*horizontal, *vertical, *crossings)


def pieces(easel: Easel, lines: Sequence[int], length: int) -> list[int]:
    """The edges of the pieces a band is cut into: at the lines that cross it, and between them where that is too long."""
    edges = [0]
    for start, end in pairwise([0, *lines, length]):
        edges += [start + edge for edge in _edges(end - start, easel.most, easel.unit)[1:]]
    return edges


def _edges(length: int, most: int, unit: int) -> list[int]:
    """0 … `length`, in even steps of at most `most`, on multiples of `unit`."""
    cells = -(-length // unit)
    count = -(-cells // (most // unit))
    return [i * cells // count * unit for i in range(count)] + [length]


def _along(easel: Easel, edges: Sequence[int], limit: int) -> list[Span]:
    """The pieces of a band along it, drawn from first to last."""
    return [_span(easel, edges, i, limit, (False, True)) for i in range(len(edges) - 1)]


def _span(easel: Easel, edges: Sequence[int], at: int, limit: int, later: tuple[bool, bool]) -> Span:
    """The span from one edge to the next; `later`: whether the neighbour before and the one after it are drawn later."""
    start, end = edges[at], edges[at + 1]
    low, high = easel.crop(start, end, limit, max(b - a for a, b in pairwise(edges)))
    centres, fade = np.arange(low, high) + 0.5, easel.fade(edges)
    mask = np.ones(high - low)
    if at > 0:
        mask *= _edge(centres - start, fade, easel.padding, cover=later[0])
    if at + 2 < len(edges):
        mask *= _edge(end - centres, fade, easel.padding, cover=later[1])
    return Span(start, end, low, high, mask.astype(np.float32))


def _across(easel: Easel, lines: Sequence[int], length: int, limit: int, width: int | None) -> list[Span]:
    """The spans over lines: `width` pixels, or to the middles of what lies between the lines."""
    spans = []
    for before, line, after in zip([0, *lines], lines, [*lines[1:], length], strict=False):
        half = min(line - before, after - line, easel.most) // 2 // easel.unit * easel.unit
        reach = max(1, half) if width is None else max(1, min(width // 2, line, length - line))
        low, high = easel.crop(line - reach, line + reach, limit)
        distance = np.abs(np.arange(low, high) + 0.5 - line)
        mask = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / reach, 0.0, 1.0))
        spans.append(Span(line - reach, line + reach, low, high, mask.astype(np.float32)))
    return spans


def _edge(inside: NDArray[Any], fade: float, padding: int, *, cover: bool) -> NDArray[Any]:
    """The mask near one edge; `inside`: pixels from it, positive on the patch's side.

    `cover`: 1 up to where the neighbour will have faded in, then down to 0 within the padding.
    """
    if cover:
        return _ramp(inside, -padding, -fade)
    return _ramp(inside, -fade, fade)


def _ramp(values: NDArray[Any], begin: float, end: float) -> NDArray[Any]:
    """0 up to `begin`, 1 from `end` on, a raised cosine between."""
    if end - begin < 1e-6:
        return (values > end).astype(np.float64)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip((values - begin) / (end - begin), 0.0, 1.0))
