"""Black and flat blocks: where the output has lost what the input shows.

A block of 64 px is flat when its luma deviates by less than 1 level where the input's deviates by more than 3, and black when its
mean is below 3 levels where the input's is above 12. No false flag was seen on 296 good outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.geometry import Box

BLOCK = 64
LUMA = np.array([0.299, 0.587, 0.114], np.float32) * 255  # Rec. 601, as 8-bit levels


def black(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """One finding for the box around all black or flat blocks. `value`: how many blocks there are."""
    ratio_y, ratio_x = input.shape[0] / output.shape[0], input.shape[1] / output.shape[1]
    bad: list[Box] = []
    for y in _starts(output.shape[0]):
        for x in _starts(output.shape[1]):
            box = Box(x, y, min(x + BLOCK, output.shape[1]), min(y + BLOCK, output.shape[0]))
            before = input[
                int(y * ratio_y) : max(int(y * ratio_y) + 1, int(np.ceil(box.y1 * ratio_y))),
                int(x * ratio_x) : max(int(x * ratio_x) + 1, int(np.ceil(box.x1 * ratio_x))),
            ]
            if lost(output[box.slices] @ LUMA, before @ LUMA):
                bad.append(box)
    if not bad:
        return []
    message = f"{len(bad)} blocks of {BLOCK} px are black or flat where the input is not."
    return [Finding("black", "error", len(bad), 0, Box.around(*bad), message)]


def _starts(length: int) -> range:
    # Half overlapping, so that what is black need not lie on our grid; at the end no block of less than half the size.
    return range(0, max(1, length - BLOCK // 2), BLOCK // 2)


def lost(after: np.ndarray, before: np.ndarray) -> bool:
    """Whether a block of luma levels has become flat or black. NaN counts as neither: that is the finite check's."""
    flat = after.std() < 1 and before.std() > 3
    dark = after.mean() < 3 and before.mean() > 12
    return bool(flat or dark)
