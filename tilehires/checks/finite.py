"""NaN and Inf: exact, and always an error. Numbers of that kind become black squares in a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.geometry import Box

ROWS = 256


def finite(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding with the box around every pixel that is no number. `value`: how many pixels."""
    return joined([found for top in range(0, output.shape[0], ROWS) for found in _in_rows(output, top)])


def joined(findings: Sequence[Finding]) -> list[Finding]:
    """What this check found in parts of one image (boxes in the image's pixels) as its one finding."""
    boxes = [found.box for found in findings if found.box]
    if not boxes:
        return []
    count = sum(int(found.value or 0) for found in findings)
    return [Finding("finite", "error", count, 0, Box.around(*boxes), f"{count} pixels are not numbers (NaN or Inf).")]


def _in_rows(output: np.ndarray, top: int) -> list[Finding]:
    bad = np.logical_not(np.isfinite(output[top : top + ROWS]).all(axis=2))
    if not bad.any():
        return []
    rows, columns = np.flatnonzero(bad.any(axis=1)), np.flatnonzero(bad.any(axis=0))
    box = Box(int(columns[0]), top + int(rows[0]), int(columns[-1]) + 1, top + int(rows[-1]) + 1)
    return [Finding("finite", "error", int(bad.sum()), 0, box, "")]
