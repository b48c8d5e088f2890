"""Sizes and boxes in whole pixels (or cells). Integers only: nothing here rounds behind the caller's back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Width and height, both ≥ 0, in pixels unless the name beside it says cells."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read "512x768" (also with × or spaces). Raises ValueError on anything else."""
        match = re.fullmatch(r"\s*(\d+)\s*[x×X]\s*(\d+)\s*", text)
        if not match:
            raise ValueError(f"{text!r} is no size; write WIDTHxHEIGHT, like 1024x768")
        return cls(int(match[1]), int(match[2]))

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def long_side(self) -> int:
        return max(self.width, self.height)

    def scaled(self, factor: float) -> Size:
        """Both sides times `factor`, rounded to nearest (halves up), at least 1."""
        return Size(max(1, math.floor(self.width * factor + 0.5)), max(1, math.floor(self.height * factor + 0.5)))

    def ceil_to(self, multiple: int) -> Size:
        """Both sides rounded up to a multiple."""
        return Size(-(-self.width // multiple) * multiple, -(-self.height // multiple) * multiple)

    def divided(self, divisor: int) -> Size:
        """Both sides divided exactly. Raises ValueError if a side is no multiple of `divisor`."""
        if self.width % divisor or self.height % divisor:
            raise ValueError(f"{self} is not a multiple of {divisor}")
        return Size(self.width // divisor, self.height // divisor)

    def covers(self, other: Size) -> bool:
        return self.width >= other.width and self.height >= other.height


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle [x0, x1) × [y0, y1)."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of(cls, size: Size) -> Box:
        """The box that covers a whole image of this size."""
        return cls(0, 0, size.width, size.height)

    @classmethod
    def around(cls, *boxes: Box) -> Box:
        """The smallest box that holds all of them, of which there is one at least."""
        x0, y0, x1, y1 = zip(*(box.as_list() for box in boxes), strict=True)
        return cls(min(x0), min(y0), max(x1), max(y1))

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) to index an array whose first two axes are height and width."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def pad(self, margin: int) -> Box:
        """Grown by `margin` on every side (shrunk where negative); not clipped."""
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def clip(self, size: Size) -> Box:
        """The part inside an image of this size; of zero area where there is none."""
        x0, y0 = min(max(self.x0, 0), size.width), min(max(self.y0, 0), size.height)
        return Box(x0, y0, max(x0, min(self.x1, size.width)), max(y0, min(self.y1, size.height)))

    def scale(self, factor: float) -> Box:
        """Multiplied, and grown outwards to whole numbers, so that nothing inside is lost."""
        return Box(
            math.floor(self.x0 * factor),
            math.floor(self.y0 * factor),
            math.ceil(self.x1 * factor),
            math.ceil(self.y1 * factor),
        )

    def align(self, multiple: int) -> Box:
        """Grown outwards until every edge is a multiple."""
        return Box(
            self.x0 // multiple * multiple,
            self.y0 // multiple * multiple,
            -(-self.x1 // multiple) * multiple,
            -(-self.y1 // multiple) * multiple,
        )

    def shift(self, dx: int, dy: int) -> Box:
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def wrapped(self, size: Size) -> Iterator[tuple[Box, Box]]:
        """Its parts inside an image of this size that goes on at its other side, each beside where in the box it lies.

        One part for a box inside the image.
        """
        for y, top, bottom in _turns(self.y0, self.y1, size.height):
            for x, left, right in _turns(self.x0, self.x1, size.width):
                inside = Box(left - self.x0, top - self.y0, right - self.x0, bottom - self.y0)
                yield Box(left - x, top - y, right - x, bottom - y), inside

    def as_list(self) -> list[int]:
        return [self.x0, self.y0, self.x1, self.y1]


def _turns(start: int, end: int, length: int) -> Iterator[tuple[int, int, int]]:
    """[start, end) cut at multiples of `length`: (the multiple below, start, end) of each part."""
    while start < end:
        below = start // length * length
        stop = min(end, below + length)
        yield below, start, stop
        start = stop


@dataclass(frozen=True, slots=True)
class Wrap:
    """Along which axes a picture goes on at its other side, as a wallpaper's pattern does."""

    x: bool = False
    y: bool = False

    @classmethod
    def of(cls, axes: Literal["none", "x", "y", "both"]) -> Wrap:
        return cls(axes in ("x", "both"), axes in ("y", "both"))

    def without(self, other: Wrap) -> Wrap:
        """The axes that aren't among the other's."""
        return Wrap(self.x and not other.x, self.y and not other.y)


OPEN = Wrap()
"""A picture that ends at its four edges."""
