"""Black and flat blocks: where the output has lost what the input shows.

A block of 64 px is flat when its luma deviates by less than 1 level where the input's deviates by more than 3, and black when its
mean is below 3 levels where the input's is above 12. No false flag was seen on 296 good outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tilehires.checks.finding import Finding
from tilehires.checks.planes import LUMA
from tilehires.geometry import Box

BLOCK = 64
MOST = 12  # findings: a picture that is black in more places than that is black as a whole


def black(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """A finding for each place with black or flat blocks, its box around them. `value`: how many blocks there are.

    Where they are in more than MOST places, one finding for all.
    """
    bad = _lost_blocks(output, input)
    if not bad:
        return []
    groups = _together(bad)
    return [_finding(group) for group in (groups if len(groups) <= MOST else [bad])]


def _finding(blocks: Sequence[Box]) -> Finding:
    message = f"{len(blocks)} blocks of {BLOCK} px are black or flat where the input is not."
    return Finding("black", "error", len(blocks), 0, Box.around(*blocks), message)


def _together(blocks: Sequence[Box]) -> list[list[Box]]:
    """The blocks by places: those that touch or overlap, also by way of others, are in one."""
    step = BLOCK // 2
    rows, columns = np.array([(block.y0 // step, block.x0 // step) for block in blocks]).T
    grid = np.zeros((rows.max() + 2, columns.max() + 2), np.uint8)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a block is two steps wide
        grid[rows + down, columns + across] = 1
    _, labels = cv2.connectedComponents(grid, connectivity=8)
    groups: dict[int, list[Box]] = {}
    for block, label in zip(blocks, labels[rows, columns], strict=True):
        groups.setdefault(int(label), []).append(block)
    return list(groups.values())


def _lost_blocks(output: np.ndarray, input: np.ndarray) -> list[Box]:
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
    return bad


def _starts(length: int) -> range:
    # Half overlapping, so that what is black need not lie on our grid; at the end no block of less than half the size.
    return range(0, max(1, length - BLOCK // 2), BLOCK // 2)


def lost(after: np.ndarray, before: np.ndarray) -> bool:
    """Whether a block of luma levels has become flat or black. NaN counts as neither: that is the finite check's."""
    flat = after.std() < 1 and before.std() > 3
    dark = after.mean() < 3 and before.mean() > 12
    return bool(flat or dark)
