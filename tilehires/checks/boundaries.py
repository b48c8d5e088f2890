"""Where tiles meet: lines from the boxes of tiled passes, in output pixels. Integers only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tilehires.geometry import Box, Size

Axis = Literal["x", "y"]


@dataclass(frozen=True, slots=True, order=True)
class Boundary:
    """One side that two tiles share: at `position` on `axis` (x: a vertical line), from `start` to `end` along it."""

    axis: Axis
    position: int
    start: int
    end: int

    def box(self, margin: int, size: Size) -> Box:
        """The band of `margin` pixels on both sides of it."""
        low, high = self.position - margin, self.position + margin
        box = Box(low, self.start, high, self.end) if self.axis == "x" else Box(self.start, low, self.end, high)
        return box.clip(size)


def boundaries(tiles: Iterable[Box]) -> tuple[Boundary, ...]:
    """The boundaries of tiled passes, given as the boxes of all passes, each a grid that begins at its top left tile.

    Where neighbours overlap, the boundary is the middle of the overlap: there our window hands over from one to the
    other. Tiles that touch have it at the edge.
    """
    return tuple(sorted({line for lines in by_pass(tiles) for line in lines}))


def by_pass(tiles: Iterable[Box]) -> Iterator[tuple[Boundary, ...]]:
    """The same, pass by pass."""
    for grid in _passes(list(tiles)):
        columns, rows = _cells({(box.x0, box.x1) for box in grid}), _cells({(box.y0, box.y1) for box in grid})
        across = (Boundary("x", x, *row) for x, _ in columns[1:] for row in rows)
        down = (Boundary("y", y, *column) for y, _ in rows[1:] for column in columns)
        yield (*across, *down)


def _passes(boxes: Sequence[Box]) -> Iterator[Sequence[Box]]:
    if not boxes:
        return
    x0, y0 = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
    whole = Box(x0, y0, max(box.x1 for box in boxes), max(box.y1 for box in boxes))
    at_corner = [(box.x0, box.y0) == (x0, y0) for box in boxes]
    # A crop may cut two tiles of one row to the same corner: only the first of them begins a pass. What covers all is one.
    begins = [i for i in range(1, len(boxes)) if at_corner[i] and (not at_corner[i - 1] or boxes[i - 1] == whole)]
    for first, after in pairwise([0, *begins, len(boxes)]):
        yield boxes[first:after]


def _cells(spans: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of each column or row the part between its hand-overs to its neighbours."""
    ordered = sorted(spans)
    cuts = [(after[0] + before[1]) // 2 for before, after in pairwise(ordered)]
    return list(pairwise([ordered[0][0], *cuts, ordered[-1][1]]))
