"""Pictures as detectors want them, and boxes back in the picture's own pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tilehires.detectors.protocol import Pixels
from tilehires.geometry import Box, Size


def reduced(pixels: Pixels, longest: int) -> tuple[NDArray[np.uint8], float]:
    """An 8-bit RGB copy of at most `longest` pixels a side, and how many of the picture's pixels one of it measures."""
    height, width = pixels.shape[:2]
    factor = max(1.0, max(height, width) / longest)
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), factor


def enlarged(x0: float, y0: float, x1: float, y1: float, factor: float, size: Size) -> Box | None:
    """A box in the reduced copy as whole pixels of the picture; None where nothing of it is left inside."""
    corners = (x0, y0, x1, y1)
    if not all(map(math.isfinite, corners)):
        return None
    box = Box(
        max(0, math.floor(x0 * factor + 1e-6)),
        max(0, math.floor(y0 * factor + 1e-6)),
        min(size.width, math.ceil(x1 * factor - 1e-6)),
        min(size.height, math.ceil(y1 * factor - 1e-6)),
    )
    return box if box.x1 > box.x0 and box.y1 > box.y0 else None


def cut_mask(mask: NDArray[np.bool_], box: Box, size: Size) -> NDArray[np.bool_]:
    """The part of a mask of the whole picture, at any resolution, that lies in `box`, at the picture's own."""
    height, width = mask.shape
    rows = np.minimum((np.arange(box.y0, box.y1) + 0.5) * height / size.height, height - 1).astype(int)
    columns = np.minimum((np.arange(box.x0, box.x1) + 0.5) * width / size.width, width - 1).astype(int)
    return mask[np.ix_(rows, columns)]
