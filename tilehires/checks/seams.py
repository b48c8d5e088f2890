"""What both seam checks share: which boundaries to look at, and what to say about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.boundaries import boundaries
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.steps import REACH, Steps, statistic, worst
from tilehires.geometry import Box, Size


def judged(
    check: str, what: str, limit: float, steps: Steps, tiles: Sequence[Box] | None, output: np.ndarray
) -> list[Finding]:
    """The finding about the boundaries of `tiles`; "n/a" where there are none."""
    if tiles is None:
        return [abstained(check, limit, "no tile grid is known")]
    lines = boundaries(tiles)
    value = statistic(steps, lines)
    if np.isnan(value):
        return [abstained(check, limit, "no tile boundary lies inside the image")]
    place = worst(steps, lines).box(REACH, Size(output.shape[1], output.shape[0]))
    message = f"Steps in {what} are {value:.2f} times as large at the tile boundaries as beside them."
    return [measured(check, value, limit, place, message)]
