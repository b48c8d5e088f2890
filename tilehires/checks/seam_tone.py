"""Seams in tone: the output grew lighter or darker from one tile to the next.

E = Y(O) − Y(R), the output's luma less that of the bicubic enlarged input, in levels; the statistic of `steps` on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.checks.own import Before
from tilehires.checks.planes import luma, strips
from tilehires.checks.seams import judged
from tilehires.checks.steps import Field, Profiles, Steps, bands, differences
from tilehires.geometry import Box

LIMIT = 1.75  # of 310 good outputs of the built-in model 3 are above; of as many with steps of 2 levels, all


def seam_tone(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding. `value`: the statistic. Its box: the worst boundary's surroundings."""
    return judged("seam_tone", "tone", LIMIT, steps_of(output, input), tiles, output)


def steps_of(output: np.ndarray, input: np.ndarray) -> Steps:
    """J of E in levels, everywhere."""
    height, width = output.shape[:2]
    before, after = Before.of(input, (height, width)), Profiles(height, width)
    for y0, y1 in strips(height):
        after.add(y0, luma(output[y0:y1]))
    across, down = before.steps()
    return Steps(
        Field(differences(bands(after.x - before.tone.x)), across),
        Field(differences(bands(after.y - before.tone.y)), down),
    )
