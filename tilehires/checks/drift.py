"""Composition drift: something in the picture is no longer what it was.

Measured at the input's size by half-overlapping squares of about 64 output pixels, and the worst of them counts: a global
SSIM sees a changed patch of 64 px in .14 of cases, the worst block's mean difference in .95.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity

from tilehires.checks.blocks import block_means, half_overlapping, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import Common, blurred, common, luma, windows
from tilehires.geometry import Box

DRIFT = 6.0  # levels; of 349 good outputs of the built-in model the largest is 2.5; a 64-px patch was found in .95
STRUCTURE = 0.3  # the largest of those is .11
HALO = 8
BLOCKS = (32, 16, 8)  # pixels a side at the input's size, from the nearest of 2x, 4x, and 8x and beyond
WINDOW = 7  # of SSIM, Wang et al. 2004 in scikit-image's default form


def drift(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the largest block mean of |G1.5 Y(D) − G1.5 Y(I)|, in levels. Its box: that block."""
    pair = common(output, input, luma)
    side = _side(pair)
    made = []
    for strip in windows(pair.shape[0], HALO):
        after, before = (blurred(plane.rows(strip.top, strip.bottom), 1.5) for plane in (pair.after, pair.before))
        made.append(block_means(np.abs(after - before)[strip.inner], side // 2))
    blocks = half_overlapping(np.concatenate(made))
    value = float(blocks.max())
    box = worst_block(blocks, side, size_of(output), pair.scale, side // 2)
    message = f"A part of the picture changed by {value:.1f} levels on average."
    return [measured("drift", value, DRIFT, box, message)]


def structure(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: 1 − the smallest block mean of SSIM between Y(D) and Y(I). Its box: that block."""
    pair = common(output, input, luma)
    if min(pair.shape) < WINDOW:
        return [abstained("structure", STRUCTURE, f"the image is less than {WINDOW} pixels high or wide")]
    side, made = _side(pair), []
    for strip in windows(pair.shape[0], HALO):
        after, before = (plane.rows(strip.top, strip.bottom) for plane in (pair.after, pair.before))
        similar = structural_similarity(after, before, win_size=WINDOW, data_range=255, full=True)[1]
        made.append(block_means(1 - similar[strip.inner].astype(np.float32), side // 2))
    blocks = half_overlapping(np.concatenate(made))
    value = float(blocks.max())
    box = worst_block(blocks, side, size_of(output), pair.scale, side // 2)
    message = f"A part of the picture has an SSIM of only {1 - value:.2f} to the input."
    return [measured("structure", value, STRUCTURE, box, message)]


def _side(pair: Common) -> int:
    scale = max(pair.scale)
    return BLOCKS[0 if scale < 2**1.5 else 1 if scale < 2**2.5 else 2]
