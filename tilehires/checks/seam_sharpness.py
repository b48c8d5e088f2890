"""Seams in sharpness: one tile came out crisper, or with more grain, than its neighbour.

The field is the log of the local high-frequency energy (x − G1.5 of luma, squared, in levels²) of the output less that of the
bicubic enlarged input; the statistic of `steps` on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.checks.planes import Enlarged, high_pass, luma, strips
from tilehires.checks.seams import judged
from tilehires.checks.steps import Profiles, Steps, bands, differences
from tilehires.geometry import Box

LIMIT = 1.47  # 98th percentile of 296 good outputs; tiles blurred by 0.8 px were found in .95 of cases
HALO = 8  # rows that the high-pass needs beyond a strip
QUIET = 0.25  # levels² of energy that count as none: rounding to 8 bits has a third of it


def seam_sharpness(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding. `value`: the statistic. Its box: the worst boundary's surroundings."""
    return judged("seam_sharpness", "sharpness", LIMIT, steps_of(output, input), tiles, output)


def steps_of(output: np.ndarray, input: np.ndarray) -> Steps:
    """J of the log energy, everywhere."""
    height, width = output.shape[:2]
    enlarged = Enlarged(luma(input), (height, width))
    after, before = Profiles(height, width), Profiles(height, width)
    for y0, y1 in strips(height):
        top, bottom = max(0, y0 - HALO), min(height, y1 + HALO)
        inner = slice(y0 - top, y1 - top)
        after.add(y0, high_pass(luma(output[top:bottom]))[inner] ** 2)
        before.add(y0, high_pass(enlarged.rows(top, bottom))[inner] ** 2)
    return Steps(*(differences(_log(a) - _log(b)) for a, b in ((after.x, before.x), (after.y, before.y))))


def _log(profile: np.ndarray) -> np.ndarray:
    return np.log(bands(profile) + QUIET)
