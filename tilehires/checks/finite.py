"""NaN and Inf: exact, and always an error. Numbers of that kind become black squares in a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.geometry import Box


def finite(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding with the box around every pixel that is no number. `value`: how many pixels."""
    bad = np.logical_not(np.isfinite(output).all(axis=2))
    if not bad.any():
        return []
    rows, columns = np.flatnonzero(bad.any(axis=1)), np.flatnonzero(bad.any(axis=0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    count = int(bad.sum())
    return [Finding("finite", "error", count, 0, box, f"{count} pixels are not numbers (NaN or Inf).")]
