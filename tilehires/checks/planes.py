"""What the checks compare: luma in 8-bit levels, the input enlarged to the output's size, the output reduced to the input's.

All by strips of rows, so that a check's memory is that of a few strips and of the input, whatever the output's size.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32) * 255  # Rec. 601, as 8-bit levels
STRIP = 256  # rows of the output worked on at once; a multiple of every block size


def luma(rgb: np.ndarray) -> Plane:
    """H×W levels (0 to 255) of H×W×3 in [0, 1]. What is no number counts as black: it is the finite check's to say."""
    plane = rgb.astype(np.float32, copy=False) @ LUMA
    return np.nan_to_num(plane, copy=False, nan=0.0, posinf=255.0, neginf=0.0)


def strips(height: int, rows: int = STRIP) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive strips of `rows` rows; the last may be shorter."""
    for y in range(0, height, rows):
        yield y, min(y + rows, height)


class Enlarged:
    """R: a plane brought to another size by bicubic interpolation, row strip by row strip.

    A strip is what the same rows of the whole would be: Pillow resamples a fractional box with the pixels around it.
    """

    def __init__(self, plane: Plane, shape: tuple[int, int]) -> None:
        self._image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        self._height, self._width = shape

    def rows(self, y0: int, y1: int) -> Plane:
        """Rows [y0, y1) of the enlarged plane."""
        ratio = self._image.height / self._height
        box = (0.0, y0 * ratio, float(self._image.width), min(y1 * ratio, float(self._image.height)))
        return np.asarray(self._image.resize((self._width, y1 - y0), Image.Resampling.BICUBIC, box=box))


def high_pass(plane: Plane, sigma: float = 1.5) -> Plane:
    """`plane` less its Gaussian blur; borders mirrored."""
    return plane - blurred(plane, sigma)


def blurred(plane: Plane, sigma: float) -> Plane:
    """Gaussian blur of H×W or H×W×C, cut at 4 sigma; borders mirrored."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(plane, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101).astype(
        np.float32, copy=False
    )
