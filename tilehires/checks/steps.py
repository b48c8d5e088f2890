"""The statistic of both seam checks: steps of a field across lines, at the true ones and beside them.

A field is a number for every short stretch of pixels; a seam is a step in it. J at a place of a line = the mean of 10 px on
its right less that of 10 px on its left, 16 px between them. The statistic over segments of lines is RMS(J) ÷ (1.25 ·
mean |J| at ±34 and ±40 px + floor): how much more steps there are at the lines than right beside them; of a Gaussian
field it is about 1.

What the input itself makes there is no seam: where the model changes its contrast or its grain, the output differs more on
one side of an edge than on the other, and a horizon that lies on a boundary looks like one. So a place counts
1 ÷ (1 + own²), own being the input's steps there in tone and in texture, each over the step at which a place counts half.
Without that, 13 of 286 good outputs of the built-in model in tiles were flagged; the share of seams found is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tilehires.checks.boundaries import Axis, Boundary
from tilehires.checks.planes import Plane

BAND, GAP = 10, 16
BESIDE = (-40, -34, 34, 40)
PIECE = 64  # pixels along a line that are averaged first
REACH = BAND + GAP // 2  # how far J looks on each side
FLOOR = 0.15
MEAN_TO_RMS = 1.2533  # of a Gaussian, √(π/2)

Levels = NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """J along an axis: `j[i, p]` of the i-th piece of the line at p, NaN where a band would leave the image.

    `own`: likewise the input's own steps (checks/own.py), 1 where a place counts half.
    """

    j: Levels
    own: Levels

    def weighted(self) -> Levels:
        """J by the root of its weight: squared, it is what a place adds to the statistic."""
        return (self.j / np.sqrt(1 + self.own**2)).astype(np.float32, copy=False)

    def piece(self, pieces: slice, position: int) -> tuple[float, float]:
        """(J, its weight) of some pieces of a line together; NaN outside."""
        if not 0 <= position < self.j.shape[1]:
            return np.nan, np.nan
        j, own = (float(plane[pieces, position].mean()) for plane in (self.j, self.own))
        return j, 1 / (1 + own**2)


@dataclass(frozen=True)
class Steps:
    """J everywhere: of vertical lines, and of horizontal ones."""

    x: Field
    y: Field

    def of(self, axis: Axis) -> Field:
        return self.x if axis == "x" else self.y


class Profiles:
    """Collects the means of a plane over pieces of 64 px along vertical and along horizontal lines, strip by strip."""

    def __init__(self, height: int, width: int) -> None:
        self.x = np.zeros((-(-height // PIECE), width), np.float32)
        self.y = np.zeros((-(-width // PIECE), height), np.float32)

    def add(self, y0: int, plane: Plane) -> None:
        """Rows from `y0`, a multiple of PIECE; every strip but the last holds whole pieces."""
        height, width = plane.shape
        self.x[y0 // PIECE : -(-(y0 + height) // PIECE)] = _means(plane)
        self.y[:, y0 : y0 + height] = _means(plane.T)


def _means(plane: Plane) -> Plane:
    """Means over groups of PIECE rows, the last one perhaps shorter."""
    starts = np.arange(0, plane.shape[0], PIECE)
    counts = np.diff(np.append(starts, plane.shape[0])).astype(np.float32)
    return np.divide(np.add.reduceat(plane, starts, axis=0), counts[:, None], dtype=np.float32)


def bands(profile: Plane) -> Plane:
    """Means over BAND pixels: column i covers [i, i + BAND) of the profile's."""
    sums = np.cumsum(profile, axis=1, dtype=np.float64)
    sums = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    return ((sums[:, BAND:] - sums[:, :-BAND]) / BAND).astype(np.float32)


def differences(levels: Plane) -> Levels:
    """J from the levels of bands (as `bands` gives them): right less left."""
    length = levels.shape[1] + BAND - 1
    made = np.full((len(levels), length), np.nan, np.float32)
    positions = np.arange(REACH, length - REACH + 1)
    positions = positions[positions < length]
    made[:, positions] = levels[:, positions + GAP // 2] - levels[:, positions - REACH]
    return made


def statistic(steps: Steps, lines: Sequence[Boundary]) -> float:
    """RMS(J) ÷ (MEAN_TO_RMS · mean |J| beside + FLOOR) over the segments `lines`, weighted; NaN where none lies inside."""
    at = [_at(steps, line, line.position) for line in lines]
    beside = [_at(steps, line, line.position + shift) for line in lines for shift in BESIDE]
    return _ratio(np.array(at), np.array(beside))


def worst(steps: Steps, lines: Sequence[Boundary]) -> Boundary:
    """The segment that adds most to the statistic."""
    at = np.array([_at(steps, line, line.position) for line in lines])
    return lines[int(np.nanargmax(at[:, 0] ** 2 * at[:, 1]))]


def null(steps: Steps, lines: Sequence[Boundary], *, draws: int = 200, clearance: int = 40, seed: int = 0) -> Levels:
    """The statistic at `draws` sets of pseudo-boundaries: every line moved to a random place of its axis.

    As many segments, as long, at least `clearance` pixels from each true line. Empty where an axis has no such place.
    """
    rng = np.random.default_rng(seed)
    taken: dict[Axis, set[int]] = {line.axis: set() for line in lines}
    for line in lines:
        taken[line.axis].add(line.position)
    places = {axis: _places(steps.of(axis).j.shape[1], near, clearance) for axis, near in taken.items()}
    if not all(len(free) for free in places.values()):
        return np.empty(0, np.float32)
    made = []
    for _ in range(draws):
        moved: dict[tuple[Axis, int], int] = {}
        for line in lines:
            moved.setdefault((line.axis, line.position), int(rng.choice(places[line.axis])))
        made.append(statistic(steps, [replace(b, position=moved[b.axis, b.position]) for b in lines]))
    return np.array(made, np.float32)


def z_score(steps: Steps, lines: Sequence[Boundary], *, draws: int = 200, seed: int = 0) -> float:
    """How many standard deviations the statistic at the true lines lies above the mean of `null`; NaN without one."""
    others = null(steps, lines, draws=draws, seed=seed)
    others = others[np.isfinite(others)]
    if len(others) < 2:
        return np.nan
    return float((statistic(steps, lines) - others.mean()) / others.std(ddof=1))


def _places(length: int, taken: set[int], clearance: int) -> NDArray[np.int64]:
    places = np.arange(REACH, length - REACH + 1)
    near = [np.abs(places - position) < clearance for position in taken]
    return places[~np.logical_or.reduce(near)] if near else places


def _at(steps: Steps, line: Boundary, position: int) -> tuple[float, float]:
    """The mean of J along a segment, at another position, and its weight; NaN outside."""
    field = steps.of(line.axis)
    # A piece belongs to the segment that holds its middle; a segment shorter than a piece takes the one it lies in.
    first, last = (line.start + PIECE // 2) // PIECE, (line.end + PIECE // 2) // PIECE
    first = min(first, len(field.j) - 1)
    return field.piece(slice(first, max(last, first + 1)), position)


def _ratio(at: np.ndarray, beside: np.ndarray) -> float:
    """Of rows of (J, weight)."""
    at, beside = (rows[np.isfinite(rows[:, 0])] for rows in (at.reshape(-1, 2), beside.reshape(-1, 2)))
    if not len(at) or not len(beside):
        return np.nan
    usual = MEAN_TO_RMS * np.average(np.abs(beside[:, 0]), weights=beside[:, 1])
    return float(np.sqrt(np.average(at[:, 0] ** 2, weights=at[:, 1])) / (usual + FLOOR))
