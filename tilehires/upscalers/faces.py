"""Where the faces of an image are, for face restoration: a small protocol, and a finder that needs no model file."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Box, Size
from tilehires.upscalers.pillow import resample

Pixels = NDArray[np.float32]
SEARCH_SIDE = 1024
"""Faces are looked for at this longer side; what is smaller than a fortieth of it isn't found."""


class FaceFinder(Protocol):
    """Finds faces."""

    def __call__(self, image: Pixels) -> tuple[Box, ...]:
        """Boxes from forehead to chin, in pixels of `image` (float32 H×W×3 in [0, 1]), from left to right."""
        ...


def frontal_faces(image: Pixels) -> tuple[Box, ...]:
    """Upright frontal faces by the cascade of local binary patterns that scikit-image ships (Zhang et al. 2007).

    It tells where a face is and not how it is turned: restorers get it as it stands in the picture.
    """
    size = Size(image.shape[1], image.shape[0])
    factor = min(1.0, SEARCH_SIDE / size.long_side)
    small = resample(image, size.scaled(factor)) if factor < 1 else image
    smallest = max(24, max(small.shape[:2]) // 40)
    found = _cascade().detect_multi_scale(
        img=np.clip(small, 0.0, 1.0),
        scale_factor=1.15,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=small.shape[:2],
    )
    boxes = [Box(one["c"], one["r"], one["c"] + one["width"], one["r"] + one["height"]) for one in found]
    return tuple(sorted(box.scale(1 / factor).clip(size) for box in boxes))


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
