"""What the output adds where the input is flat: noise that stayed, texture that was made up.

Blocks of 32 px in which the enlarged input R deviates by less than 2.5 levels; in each the RMS of the high-pass of Y(O) − Y(R).
Whole-image noise estimators were tried and find nothing (recall ≤ .05): texture dominates them. So without a flat area these
checks abstain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, abstained, measured
from tilehires.checks.planes import Enlarged, Plane, high_pass, luma, windows
from tilehires.geometry import Box

NOISE = 1.5  # levels; above the largest of 218 good outputs (1.18); noise of sigma 4 was always found (1.59 and more)
TEXTURE = 2.4  # levels; above the largest of 218 good outputs (2.36)
FLAT = 2.5  # levels
BLOCK, HALO = 32, 8
LEAST = 8  # blocks
ABSENT = "the input has no flat area"


def noise(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the median over the flat blocks, in levels. Its box: the worst of them."""
    residuals = flat_residuals(output, input)
    found = residuals[np.isfinite(residuals)]
    if len(found) < LEAST:
        return [abstained("noise", NOISE, ABSENT)]
    value = float(np.median(found))
    message = f"Flat areas carry noise of {value:.2f} levels that the input hasn't."
    return [measured("noise", value, NOISE, worst_block(residuals, BLOCK, size_of(output)), message)]


def texture(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the 95th percentile over the flat blocks, in levels. Its box: the worst of them."""
    residuals = flat_residuals(output, input)
    found = residuals[np.isfinite(residuals)]
    if len(found) < LEAST:
        return [abstained("texture", TEXTURE, ABSENT)]
    value = float(np.percentile(found, 95))
    message = f"Where the input is flat the output has texture of {value:.2f} levels."
    return [measured("texture", value, TEXTURE, worst_block(residuals, BLOCK, size_of(output)), message)]


def flat_residuals(output: np.ndarray, input: np.ndarray) -> Plane:
    """By block of 32 px: the RMS of what was added, in levels; NaN where the input isn't flat."""
    height, width = output.shape[:2]
    enlarged = Enlarged(luma(input), (height, width))
    made = []
    for strip in windows(height, HALO):
        before = enlarged.rows(strip.top, strip.bottom)
        added = high_pass(luma(output[strip.top : strip.bottom]) - before)[strip.inner]
        before = before[strip.inner]
        mean = block_means(before, BLOCK)
        spread = block_means(
            (before - np.repeat(np.repeat(mean, BLOCK, 0), BLOCK, 1)[: len(before), :width]) ** 2, BLOCK
        )
        made.append(np.where(spread < FLAT**2, np.sqrt(block_means(added**2, BLOCK)), np.nan))
    return np.concatenate(made).astype(np.float32)
