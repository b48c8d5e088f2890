"""Halos: bright or dark rims along strong edges, which sharpening and over-eager upscalers leave.

How far the output's luma leaves the range of the input's 3×3 neighbourhood, less what the enlarged input R leaves it by
(any interpolation overshoots a little), divided by that range, where it is at least 40 levels wide. Of such places the one
in twenty where it is largest tells: a rim covers few of the pixels that an edge is in reach of.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import Enlarged, Plane, luma, windows
from tilehires.geometry import Box

LIMIT = 0.2  # of 329 good outputs of the built-in model the 98th percentile is .13, at 4x by itself .22
EDGE = 40  # levels
BLOCK = 64
LEAST = 0.002  # of the pixels must lie at strong edges
SHARE = 0.95  # of them lie below `value`
BINS, WIDEST = 2000, 2.0  # of the histogram it is read from, so that memory doesn't grow with the picture


def halo(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the 95th percentile of overshoot ÷ local contrast at strong edges. Its box: the block with the most."""
    overshoot, edges, counts = overshoots(output, input)
    if edges.mean() < LEAST:
        return [abstained("halo", LIMIT, "the input has no strong edges")]
    below = np.searchsorted(np.cumsum(counts), SHARE * counts.sum())
    value = float(below) * WIDEST / BINS
    box = worst_block(np.where(edges < 0.02, -1, overshoot / np.maximum(edges, 0.02)), BLOCK, size_of(output))
    message = f"At strong edges the output overshoots the input by up to {value:.0%} of the local contrast."
    return [measured("halo", value, LIMIT, box, message)]


def overshoots(output: np.ndarray, input: np.ndarray) -> tuple[Plane, Plane, np.ndarray]:
    """Block means of overshoot ÷ contrast (0 away from strong edges), and the share of strong edges in each block.

    And over all strong edges a histogram of it: counts in BINS bins from 0 to WIDEST.
    """
    height, width = output.shape[:2]
    columns = (np.arange(width) * input.shape[1] // width).astype(np.int64)
    kernel = np.ones((3, 3), np.uint8)
    enlarged = Enlarged(luma(input), (height, width))
    sums, shares, counts = [], [], np.zeros(BINS, np.int64)
    for strip in windows(height, 0):
        rows = np.arange(strip.y0, strip.y1) * input.shape[0] // height
        top, bottom = max(0, int(rows[0]) - 1), min(input.shape[0], int(rows[-1]) + 2)
        before = luma(input[top:bottom])
        high, low = cv2.dilate(before, kernel), cv2.erode(before, kernel)
        high, low = (plane[rows - top][:, columns] for plane in (high, low))
        contrast = high - low
        strong = contrast >= EDGE
        after, usual = (
            np.maximum(np.maximum(plane - high, low - plane), 0)
            for plane in (luma(output[strip.y0 : strip.y1]), enlarged.rows(strip.y0, strip.y1))
        )
        beyond = np.where(strong, np.maximum(after - usual, 0) / np.maximum(contrast, EDGE), 0).astype(np.float32)
        counts += np.histogram(np.minimum(beyond[strong], WIDEST), BINS, (0, WIDEST))[0]
        sums.append(block_means(beyond, BLOCK))
        shares.append(block_means(strong.astype(np.float32), BLOCK))
    return np.concatenate(sums), np.concatenate(shares), counts
