"""Boundaries of a grid that nobody told us: lines at one period and phase that all show steps.

For images that another tool made. Every position gets its own ratio, the median of |J| along the whole line ÷ (1.4826 · median
|J| beside + floor), J weighted as in `steps`: a tile's step is there all along a line, that of an edge of the picture in a part
of it, or the input has it too. A grid is rated by the lower quartile of its lines' ratios, so that one strong edge of the
picture makes no grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from tilehires.checks.boundaries import Axis, Boundary
from tilehires.checks.planes import Plane
from tilehires.checks.steps import BESIDE, FLOOR, GAP, REACH, Steps

SHORTEST, LONGEST = 96, 2048  # pixels of a period
LINES = 3  # fewer lines are no grid: two edges of the picture would do
AXES: tuple[Axis, ...] = ("x", "y")


@dataclass(frozen=True, slots=True)
class Grid:
    """The lines of one axis, from border to border. `rating`: how much larger steps are there than beside; `worst`: the line
    where they are largest.
    """

    rating: float
    lines: tuple[Boundary, ...]
    worst: Boundary


def search(steps: Steps) -> Grid | None:
    """The best grid; an axis on its own is one as well. None where the image is too small for one."""
    found = [grid for axis in AXES if (grid := _best(axis, steps)) is not None]
    return max(found, key=lambda grid: grid.rating, default=None)


def ratios(field: Plane) -> Plane:
    """The ratio at every position of an axis; NaN at the border. `field`: weighted J, pieces × positions."""
    size = np.abs(field)
    padded = np.pad(size, ((0, 0), (40, 40)), constant_values=np.nan)
    beside = np.concatenate([padded[:, 40 + shift : 40 + shift + field.shape[1]] for shift in BESIDE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns of nothing but NaN, at the border
        along, near = np.nanmedian(size, axis=0), np.nanmedian(beside, axis=0)
    return (along / (1.4826 * near + FLOOR)).astype(np.float32)


def _best(axis: Axis, steps: Steps) -> Grid | None:
    """The rating is that of the best comb. The lines are those of the comb with the most that is above half of it.

    Every second line of a grid is rated as high as all of them, and a place near a line as high as the line.
    """
    line = ratios(steps.of(axis).weighted())
    rating = max((_rating(comb) for _, comb in _combs(line)), default=-1.0)
    if rating <= 0:
        return None
    centred = _centred(line)
    sums = [(float(np.nanmax(total)), period, total) for period, total in _totals(centred - rating / 2)]
    _, period, total = max(sums, key=lambda one: one[0])
    places = [p for p in range(int(np.nanargmax(total)), len(line), period) if np.isfinite(line[p])]
    along = steps.of("y" if axis == "x" else "x").j.shape[1]
    lines = tuple(Boundary(axis, place, 0, along) for place in places)
    return Grid(rating, lines, lines[int(np.argmax(centred[places]))])


def _combs(line: Plane) -> Iterator[tuple[int, Plane]]:
    """(period, ratios as lines × phases) of every period with at least LINES lines; NaN outside."""
    for period in range(SHORTEST, min(LONGEST, (len(line) - 2 * REACH) // (LINES - 1)) + 1):
        rows = -(-len(line) // period)
        comb = np.full(rows * period, np.nan, np.float32)
        comb[: len(line)] = line
        yield period, comb.reshape(rows, period)


def _rating(comb: Plane) -> float:
    """The lower quartile of the lines' ratios, at the phase where it is largest; -1 where none has LINES lines."""
    count = np.isfinite(comb).sum(axis=0)
    ordered = np.sort(comb, axis=0)  # NaN goes to the end
    quartile = ordered[np.minimum(count // 4, np.maximum(count, 1) - 1), np.arange(comb.shape[1])]
    return float(np.where(count >= LINES, quartile, -1).max())


def _totals(line: Plane) -> Iterator[tuple[int, Plane]]:
    """(period, sum over the lines of each phase); NaN for a phase with fewer than LINES lines."""
    for period, comb in _combs(line):
        enough = np.isfinite(comb).sum(axis=0) >= LINES
        if enough.any():
            yield period, np.where(enough, np.nansum(comb, axis=0), np.nan)


def _centred(line: Plane) -> Plane:
    """Means over GAP + 1 positions: J is the same wherever a step lies within its gap, so these peak at the step."""
    known = np.isfinite(line)
    sums, counts = (
        cv2.blur(values.astype(np.float32)[None], (GAP + 1, 1), borderType=cv2.BORDER_CONSTANT)[0]
        for values in (np.where(known, line, 0), known)
    )
    return np.where(known, sums / np.maximum(counts, np.float32(1e-6)), np.nan).astype(np.float32)
