"""Colour shift: CIEDE2000 between output and input, both blurred (sigma 6) so that detail doesn't count, at the input's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

from tilehires.checks.blocks import block_means, size_of, worst_block
from tilehires.checks.finding import Finding, measured
from tilehires.checks.planes import Plane, blurred, common, levels, windows
from tilehires.geometry import Box

MEAN, LOCAL = 1.75, 2.1  # 98th percentiles of 296 good outputs; a shift of 6 was always found
SIGMA = 6.0
EVERY = 4  # pixels: what is blurred by 6 loses nothing when every fourth is taken, on both axes
BLOCK = 8  # of those: 32 px
HALO = 24


def colour(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the mean ΔE2000."""
    blocks, _ = differences(output, input)
    value = float(blocks.mean())
    return [measured("colour", value, MEAN, None, f"Colours are off by {value:.2f} ΔE2000 on average.")]


def colour_local(output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None) -> list[Finding]:
    """`value`: the largest mean ΔE2000 of a block of 32 px. Its box: that block."""
    blocks, scale = differences(output, input)
    value = float(blocks.max())
    box = worst_block(blocks, BLOCK * EVERY, size_of(output), scale)
    return [measured("colour_local", value, LOCAL, box, f"In one part colours are off by {value:.2f} ΔE2000.")]


def differences(output: np.ndarray, input: np.ndarray) -> tuple[Plane, tuple[float, float]]:
    """Block means of ΔE2000, and the scale of their frame."""
    pair = common(output, input, levels)
    made = []
    for strip in windows(pair.shape[0], HALO):
        lab = []
        for side in (pair.after, pair.before):
            rows = blurred(side.rows(strip.top, strip.bottom), SIGMA)[strip.inner]
            lab.append(rgb2lab(np.clip(rows[::EVERY, ::EVERY] / 255, 0, 1)))
        made.append(block_means(deltaE_ciede2000(*lab).astype(np.float32), BLOCK))
    return np.concatenate(made), pair.scale
