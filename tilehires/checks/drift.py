"""Composition drift: something in the picture is no longer what it was.

Measured at the input's size by blocks of 32 px, and the worst of them counts: a global SSIM sees a changed patch of 64 px in
.14 of cases, the worst block's mean difference in .95.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import blurred, common, luma, windows
from tilehires.geometry import Box

DRIFT = 8.4  # levels; 98th percentile of 296 good outputs, as the next
STRUCTURE = 0.38  # 1 − .62
BLOCK, HALO = 32, 8
WINDOW = 7  # of SSIM, Wang et al. 2004 in scikit-image's default form


def drift(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the largest block mean of |G1.5 Y(D) − G1.5 Y(I)|, in levels. Its box: that block."""
    pair = common(output, input, luma)
    made = []
    for strip in windows(pair.shape[0], HALO):
        after, before = (blurred(side.rows(strip.top, strip.bottom), 1.5) for side in (pair.after, pair.before))
        made.append(block_means(np.abs(after - before)[strip.inner], BLOCK))
    blocks = np.concatenate(made)
    value = float(blocks.max())
    message = f"A part of the picture changed by {value:.1f} levels on average."
    return [measured("drift", value, DRIFT, worst_block(blocks, BLOCK, size_of(output), pair.scale), message)]


def structure(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: 1 − the smallest block mean of SSIM between Y(D) and Y(I). Its box: that block."""
    pair = common(output, input, luma)
    if min(pair.shape) < WINDOW:
        return [abstained("structure", STRUCTURE, f"the image is less than {WINDOW} pixels high or wide")]
    made = []
    for strip in windows(pair.shape[0], HALO):
        after, before = (side.rows(strip.top, strip.bottom) for side in (pair.after, pair.before))
        similar = structural_similarity(after, before, win_size=WINDOW, data_range=255, full=True)[1]
        made.append(block_means(1 - similar[strip.inner].astype(np.float32), BLOCK))
    blocks = np.concatenate(made)
    value = float(blocks.max())
    message = f"A part of the picture has an SSIM of only {1 - value:.2f} to the input."
    return [measured("structure", value, STRUCTURE, worst_block(blocks, BLOCK, size_of(output), pair.scale), message)]
