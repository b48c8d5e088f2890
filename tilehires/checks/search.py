"""Boundaries of a grid that nobody told us: lines at one period and phase that all show steps.

For images that another tool made. Every position gets its own ratio, RMS(J) along the whole line ÷ (1.4826 · median |J| beside +
floor); a grid is rated by the lower quartile of its lines' ratios, so that one strong edge of the picture makes no grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from tilehires.checks.boundaries import Axis, Boundary
from tilehires.checks.planes import Plane
from tilehires.checks.steps import BESIDE, FLOOR, REACH, Steps

SHORTEST, LONGEST = 96, 2048  # pixels of a period
LINES = 3  # fewer lines are no grid: two edges of the picture would do


def search(steps: Steps) -> tuple[float, Sequence[Boundary]]:
    """(rating, lines) of the best grid; an axis on its own is one as well. (NaN, ()) where the image holds none."""
    best: tuple[float, Sequence[Boundary]] = (np.nan, ())
    for axis in _AXES:
        field = steps.of(axis)
        rating, places = _best(ratios(field))
        if places and not rating <= best[0]:
            along = steps.of("y" if axis == "x" else "x").shape[1]
            best = (rating, tuple(Boundary(axis, place, 0, along) for place in places))
    return best


_AXES: tuple[Axis, ...] = ("x", "y")


def ratios(field: Plane) -> Plane:
    """The ratio at every position of an axis; NaN at the border. `field`: J, pieces × positions."""
    size = np.abs(field)
    padded = np.pad(size, ((0, 0), (40, 40)), constant_values=np.nan)
    beside = np.concatenate([padded[:, 40 + shift : 40 + shift + field.shape[1]] for shift in BESIDE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns of nothing but NaN, at the border
        return np.sqrt(np.nanmean(size**2, axis=0)) / (1.4826 * np.nanmedian(beside, axis=0) + FLOOR)


def _best(line: Plane) -> tuple[float, tuple[int, ...]]:
    length = len(line)
    best, places = np.nan, ()
    for period in range(SHORTEST, min(LONGEST, (length - 2 * REACH) // (LINES - 1)) + 1):
        rows = -(-length // period)
        comb = np.full(rows * period, np.nan, np.float32)
        comb[:length] = line
        comb = comb.reshape(rows, period)
        count = np.isfinite(comb).sum(axis=0)
        comb = np.sort(comb, axis=0)  # NaN goes to the end
        rating = comb[np.minimum(count // 4, np.maximum(count, 1) - 1), np.arange(period)]
        rating = np.where(count >= LINES, rating, -1)
        phase = int(rating.argmax())
        if rating[phase] > 0 and not rating[phase] <= best:
            best = float(rating[phase])
            places = tuple(p for p in range(phase, length, period) if np.isfinite(line[p]))
    return best, places
