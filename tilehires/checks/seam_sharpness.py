"""Seams in sharpness: one tile came out crisper, or with more grain, than its neighbour.

The field is the log of the local high-frequency energy (x − G1.5 of luma, squared, in levels²) of the output less that of the
bicubic enlarged input; the statistic of `steps` on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.checks.own import HALO, Before, log_energy
from tilehires.checks.planes import high_pass, luma, windows
from tilehires.checks.seams import judged
from tilehires.checks.steps import Field, Profiles, Steps, differences
from tilehires.geometry import Box

LIMIT = 1.3  # of 310 good outputs of the built-in model 2 are above; with tiles blurred by .8 px .98 at 2x, .91 at 4x


def seam_sharpness(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding. `value`: the statistic. Its box: the worst boundary's surroundings."""
    return judged("seam_sharpness", "sharpness", LIMIT, steps_of(output, input), tiles, output)


def steps_of(output: np.ndarray, input: np.ndarray) -> Steps:
    """J of the log energy, everywhere."""
    height, width = output.shape[:2]
    before, after = Before.of(input, (height, width)), Profiles(height, width)
    for strip in windows(height, HALO):
        after.add(strip.y0, high_pass(luma(output[strip.top : strip.bottom]))[strip.inner] ** 2)
    across, down = before.steps()
    return Steps(
        Field(differences(log_energy(after.x) - log_energy(before.texture.x)), across),
        Field(differences(log_energy(after.y) - log_energy(before.texture.y)), down),
    )
