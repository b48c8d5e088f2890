"""Banding: a smooth slope of the input came out in stairs.

The share of pixels without any gradient, in whole 8-bit levels, in the areas where the enlarged input R rises gently
(0.02 to 1 level a pixel, and nowhere within 4 pixels by more): the output's less R's own. What has grain has few such
pixels; a picture of 32 levels has them everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import Enlarged, Plane, blurred, luma, windows
from tilehires.geometry import Box

LIMIT = 0.08  # the start is 0; an upscale without a second pass is smoother than R: up to .076 on 24 good ones
SLOPE = (0.02, 1.0)  # levels a pixel
BLOCK, HALO = 64, 8
LEAST = 0.01  # of the pixels must lie on slopes


def banding(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the extra share. Its box: the block with the most."""
    extra, slopes = extra_shares(output, input)
    if slopes.mean() < LEAST:
        return [abstained("banding", LIMIT, "the input has no smooth slopes")]
    value = float(extra.mean() / slopes.mean())
    message = f"{value:.0%} more of the smooth areas are without any gradient than in the input."
    return [measured("banding", value, LIMIT, worst_block(extra, BLOCK, size_of(output)), message)]


def extra_shares(output: np.ndarray, input: np.ndarray) -> tuple[Plane, Plane]:
    """By block of 64 px: the output's share of zero-gradient pixels on slopes less R's, and the share of slopes."""
    height, width = output.shape[:2]
    enlarged = Enlarged(luma(input), (height, width))
    extra, slopes = [], []
    for strip in windows(height, HALO):
        before = enlarged.rows(strip.top, strip.bottom)
        smooth = blurred(before, 1.5)
        steepness = np.hypot(*(cv2.Sobel(smooth, cv2.CV_32F, x, 1 - x, ksize=1) / 2 for x in (0, 1)))
        # The steepest nearby: where texture turns it is level as well, for a pixel or two.
        nearby = cv2.dilate(steepness, np.ones((9, 9), np.uint8))
        slope = ((steepness > SLOPE[0]) & (nearby < SLOPE[1]))[strip.inner]
        flat = [_still(plane)[strip.inner] & slope for plane in (luma(output[strip.top : strip.bottom]), before)]
        extra.append(block_means(flat[0].astype(np.float32) - flat[1], BLOCK))
        slopes.append(block_means(slope.astype(np.float32), BLOCK))
    return np.concatenate(extra), np.concatenate(slopes)


def _still(plane: Plane) -> np.ndarray:
    """Where a pixel equals its left and its upper neighbour in whole levels; what lies outside is taken as equal."""
    whole = np.rint(plane)
    across = np.diff(whole, axis=1, prepend=whole[:, :1])
    down = np.diff(whole, axis=0, prepend=whole[:1])
    return (across == 0) & (down == 0)
