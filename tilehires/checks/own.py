"""The input's own steps, in tone and in texture, where the seam checks look less closely (steps.py says why)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilehires.checks.planes import Enlarged, high_pass, luma, windows
from tilehires.checks.steps import Levels, Profiles, bands, differences

TONE = 10.0  # levels of a step at which a place counts half
TEXTURE = 0.67  # of the log of high-frequency energy, likewise
"""Both chosen among four values each, on the judged and the fresh pictures of tools/calibration_pictures.py."""
HALO = 8  # rows that the high-pass needs beyond a strip
QUIET = 0.25  # levels² of energy that count as none: rounding to 8 bits has a third of it


@dataclass(frozen=True)
class Before:
    """What R, the input enlarged to the output's shape, is along lines: its luma, and its high-frequency energy in levels²."""

    tone: Profiles
    texture: Profiles

    @classmethod
    def of(cls, input: np.ndarray, shape: tuple[int, int]) -> Before:
        enlarged = Enlarged(luma(input), shape)
        made = cls(Profiles(*shape), Profiles(*shape))
        for strip in windows(shape[0], HALO):
            rows = enlarged.rows(strip.top, strip.bottom)
            made.tone.add(strip.y0, rows[strip.inner])
            made.texture.add(strip.y0, high_pass(rows)[strip.inner] ** 2)
        return made

    def steps(self) -> tuple[Levels, Levels]:
        """Its own steps at vertical and at horizontal lines, 1 where a place counts half."""
        axes = ((self.tone.x, self.texture.x), (self.tone.y, self.texture.y))
        across, down = (
            np.hypot(differences(bands(levels)) / TONE, differences(log_energy(energy)) / TEXTURE)
            for levels, energy in axes
        )
        return across, down


def log_energy(profile: Levels) -> Levels:
    """The log of the means over bands of an energy."""
    return np.log(bands(profile) + QUIET)
