"""What both seam checks share: which boundaries to look at, and what to say about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.boundaries import by_pass
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.search import search
from tilehires.checks.steps import REACH, Steps, statistic, worst
from tilehires.geometry import Box, Size

SEARCHED = 2.0  # above the best grid that 16 photographs without any tiles seemed to have (tone 1.3, sharpness .7)


def judged(
    check: str, what: str, limit: float, steps: Steps, tiles: Sequence[Box] | None, output: np.ndarray
) -> list[Finding]:
    """The finding about the boundaries of `tiles`, of the pass that shows most; "n/a" where there are none."""
    if tiles is None:
        return _searched(check, what, steps, output)
    # Each pass by itself: among the lines of the others its seams would be diluted.
    passes = [(statistic(steps, lines), lines) for lines in by_pass(tiles)]
    value, lines = max((one for one in passes if not np.isnan(one[0])), default=(np.nan, ()))
    if np.isnan(value):
        return [abstained(check, limit, "no tile boundary lies inside the image")]
    place = worst(steps, lines).box(REACH, Size(output.shape[1], output.shape[0]))
    message = f"Steps in {what} are {value:.2f} times as large at the tile boundaries as beside them."
    return [measured(check, value, limit, place, message)]


def _searched(check: str, what: str, steps: Steps, output: np.ndarray) -> list[Finding]:
    """The finding about the grid that shows most, where none is known."""
    grid = search(steps)
    if grid is None:
        return [abstained(check, SEARCHED, "no tile grid is known, and the image is too small to search for one")]
    place = grid.worst.box(REACH, Size(output.shape[1], output.shape[0]))
    lines = grid.lines
    positions = ", ".join(str(line.position) for line in lines[:8]) + (" …" if len(lines) > 8 else "")
    where = f"at the lines {grid.worst.axis} = {positions}"
    message = f"Steps in {what} are {grid.rating:.2f} times as large {where} as beside them."
    return [measured(check, grid.rating, SEARCHED, place, message)]
