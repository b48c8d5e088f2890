"""Duplicated subjects: a second head in the sky. Needs detections in both images; without them it abstains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilehires.checks.finding import Finding, abstained
from tilehires.geometry import Box

SAME = 0.3  # IoU


def duplicates(
    output: np.ndarray,
    input: np.ndarray,
    tiles: Sequence[Box] | None = None,
    *,
    detections: tuple[Sequence[Box], Sequence[Box]] | None = None,
) -> list[Finding]:
    """A warning for each detection in the output that none of the input's overlaps by an IoU of 0.3.

    `detections`: boxes of one kind found in the output and in the input, both in output pixels.
    """
    if detections is None:
        return [abstained("duplicates", 0, "no detector looked at the images")]
    after, before = detections
    if not after and not before:
        return [abstained("duplicates", 0, "nothing was detected in either image")]
    new = [box for box in after if all(overlap(box, known) < SAME for known in before)]
    if not new:
        return [Finding("duplicates", "info", 0, 0, None, "Every detection in the output is in the input.")]
    message = f"{len(new)} of {len(after)} detections in the output are not in the input, which has {len(before)}."
    return [Finding("duplicates", "warning", len(new), 0, box, message) for box in new]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.width * one.height + other.width * other.height - shared)
