"""What the checks compare: luma in 8-bit levels, the input enlarged to the output's size, the output reduced to the input's.

All by strips of rows, so that a check's memory is that of a few strips and of the input, whatever the output's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

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


def levels(rgb: np.ndarray) -> Plane:
    """H×W×3 in [0, 1] as levels (0 to 255); what is no number counts as black."""
    return np.nan_to_num(rgb.astype(np.float32) * 255, copy=False, nan=0.0, posinf=255.0, neginf=0.0)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows [y0, y1) to be measured, and [top, bottom), what has to be at hand for it; `inner` finds the former in the latter."""

    y0: int
    y1: int
    top: int
    bottom: int

    @property
    def inner(self) -> slice:
        return slice(self.y0 - self.top, self.y1 - self.top)


def windows(height: int, halo: int) -> Iterator[Window]:
    """The strips of an image with `halo` rows more on both sides, where there are any."""
    for y0, y1 in strips(height):
        yield Window(y0, y1, max(0, y0 - halo), min(height, y1 + halo))


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


class Reduced:
    """D: an image brought to a smaller size by area averaging, row strip by row strip.

    `convert` makes float planes (H×W or H×W×C) of the image's rows.
    """

    def __init__(self, image: np.ndarray, shape: tuple[int, int], convert: Callable[[np.ndarray], Plane]) -> None:
        self._image, self._shape, self._convert = image, shape, convert
        self._across = _areas(image.shape[1], shape[1], 0, shape[1])

    def rows(self, y0: int, y1: int) -> Plane:
        """Rows [y0, y1) of the reduced image."""
        if self._image.shape[:2] == self._shape:
            return self._convert(self._image[y0:y1])
        ratio = self._image.shape[0] / self._shape[0]
        first, last = int(y0 * ratio), min(self._image.shape[0], int(np.ceil(y1 * ratio)))
        planes = self._convert(self._image[first:last])
        down = _areas(self._image.shape[0], self._shape[0], y0, y1)[:, first:last]
        stacked = planes.reshape(planes.shape[0], planes.shape[1], -1)
        made = [(self._across @ (down @ stacked[..., i]).T).T for i in range(stacked.shape[2])]
        return np.stack(made, -1).reshape(y1 - y0, self._shape[1], *planes.shape[2:]).astype(np.float32, copy=False)


def _areas(length: int, target: int, start: int, stop: int) -> csr_array:
    """Row i − start: the weights with which pixel i of `target` averages over `length` pixels."""
    ratio = length / target
    edges = np.arange(start, stop + 1) * ratio
    rows, columns, weights = [], [], []
    for i, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        covered = np.arange(int(low), min(length, int(np.ceil(high - 1e-9))))
        weight = np.minimum(covered + 1, high) - np.maximum(covered, low)
        rows += [i] * len(covered)
        columns += covered.tolist()
        weights += (weight / weight.sum()).tolist()
    return csr_array((np.array(weights, np.float32), (rows, columns)), shape=(stop - start, length))


@dataclass(frozen=True)
class Common:
    """Output and input at the smaller of their sizes, by row strips; `scale`: output pixels to one of these, on each axis."""

    shape: tuple[int, int]
    after: Reduced
    before: Reduced
    scale: tuple[float, float]


def common(output: np.ndarray, input: np.ndarray, convert: Callable[[np.ndarray], Plane]) -> Common:
    """The two images where they can be compared pixel by pixel: as a rule at the input's size."""
    shape = (min(output.shape[0], input.shape[0]), min(output.shape[1], input.shape[1]))
    scale = (output.shape[0] / shape[0], output.shape[1] / shape[1])
    return Common(shape, Reduced(output, shape, convert), Reduced(input, shape, convert), scale)
