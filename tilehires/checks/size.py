"""The output's shape: the input's aspect, and no smaller than a pixel on a side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.geometry import Box


def size(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """A finding when width and height were scaled by different factors. `value`: by how many output pixels the height is off."""
    expected = output.shape[1] * input.shape[0] / input.shape[1]
    off = abs(output.shape[0] - expected)
    # Sides are whole pixels, rounded down where a cap asks for it: a pixel of the height, and one of the width carried over.
    limit = 1 + input.shape[0] / input.shape[1] + 1e-6
    if off <= limit:
        return []
    message = f"The output is {output.shape[1]}x{output.shape[0]}, which is not the input's aspect."
    return [Finding("size", "error", float(off), float(limit), None, message)]
