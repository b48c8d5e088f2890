"""Halos: bright or dark rims along strong edges, which sharpening and over-eager upscalers leave.

How far the output's luma leaves the range of the input's 3×3 neighbourhood, divided by that range, where it is at least 40
levels wide; the mean over such places in the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import Plane, luma, windows
from tilehires.geometry import Box

LIMIT = 0.063  # 98th percentile of 296 good outputs; an unsharp mask of amount 1, radius 2 was found in .92 of cases
EDGE = 40  # levels
BLOCK = 64
LEAST = 0.002  # of the pixels must lie at strong edges


def halo(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the mean overshoot at strong edges ÷ local contrast. Its box: the worst block."""
    overshoot, edges = overshoots(output, input)
    if edges.mean() < LEAST:
        return [abstained("halo", LIMIT, "the input has no strong edges")]
    value = float(overshoot.mean() / edges.mean())
    box = worst_block(np.where(edges < 0.02, -1, overshoot / np.maximum(edges, 0.02)), BLOCK, size_of(output))
    message = f"At strong edges the output overshoots the input by {value:.1%} of the local contrast."
    return [measured("halo", value, LIMIT, box, message)]


def overshoots(output: np.ndarray, input: np.ndarray) -> tuple[Plane, Plane]:
    """Block means of overshoot ÷ contrast (0 away from strong edges), and the share of strong edges in each block."""
    height, width = output.shape[:2]
    columns = (np.arange(width) * input.shape[1] // width).astype(np.int64)
    kernel = np.ones((3, 3), np.uint8)
    sums, shares = [], []
    for strip in windows(height, 0):
        rows = np.arange(strip.y0, strip.y1) * input.shape[0] // height
        top, bottom = max(0, int(rows[0]) - 1), min(input.shape[0], int(rows[-1]) + 2)
        before = luma(input[top:bottom])
        high, low = cv2.dilate(before, kernel), cv2.erode(before, kernel)
        high, low = (plane[rows - top][:, columns] for plane in (high, low))
        after, contrast = luma(output[strip.y0 : strip.y1]), high - low
        strong = contrast >= EDGE
        beyond = np.maximum(np.maximum(after - high, low - after), 0)
        sums.append(block_means(np.where(strong, beyond / np.maximum(contrast, EDGE), 0).astype(np.float32), BLOCK))
        shares.append(block_means(strong.astype(np.float32), BLOCK))
    return np.concatenate(sums), np.concatenate(shares)
