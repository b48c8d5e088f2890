"""The face detector that needs no download: scikit-image's LBP cascade of frontal faces.

A cascade only says yes or no at each place and size. How many neighbouring places agree is taken for a score: n votes
are n/(n+8). On scikit-image's photographs a frontal face gets 17 to 22 votes (0.68 to 0.73), nothing else over 10 (0.56).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilehires.detectors.picture import enlarged, reduced
from tilehires.detectors.protocol import Detection, Pixels
from tilehires.geometry import Size

LONGEST = 512  # a scan of 512² takes seconds, and a face of 1/20 of the longer side is still found
SMALLEST = 24  # the cascade was trained at 24 px
OVERLAP = 0.4  # intersection ÷ union from which two places are the same face
HALF = 8  # votes that make a score of 0.5

Place = tuple[float, float, float]


class FaceCascade:
    """See `Detector`. Frontal faces only; the score is a share of votes, no probability."""

    name = "builtin:face"
    files: tuple[Path, ...] = ()

    def __init__(self) -> None:
        self._cascade: Any = None

    def detect(self, pixels: Pixels, *, confidence: float) -> tuple[Detection, ...]:
        levels, factor = reduced(pixels, LONGEST)
        side = min(levels.shape[:2])
        if side < SMALLEST:
            return ()
        size = Size(pixels.shape[1], pixels.shape[0])
        found = []
        for group in _grouped(self._places(levels, side)):
            x, y, width = np.mean(group, axis=0)
            score = len(group) / (len(group) + HALF)
            box = enlarged(x, y, x + width, y + width, factor, size)
            if box is not None and score >= confidence:
                found.append(Detection("face", box, round(score, 4)))
        return tuple(sorted(found, key=lambda d: (-d.score, d.box.y0, d.box.x0)))

    def close(self) -> None:
        self._cascade = None

    def _places(self, levels: NDArray[np.uint8], side: int) -> list[Place]:
        """Every (x, y, width) where the cascade says yes."""
        if self._cascade is None:
            # Imported here: scikit-image takes a second, and few runs look for faces with it.
            from skimage.data import lbp_frontal_face_cascade_filename
            from skimage.feature import Cascade

            self._cascade = Cascade(lbp_frontal_face_cascade_filename())
        answers = self._cascade.detect_multi_scale(
            img=levels,
            scale_factor=1.1,
            step_ratio=1,
            min_size=(SMALLEST, SMALLEST),
            max_size=(side, side),
            # No grouping of its own: it would drop the votes.
            min_neighbor_number=0,
            intersection_score_threshold=1.01,
        )
        # Threads of the scan answer in any order.
        return sorted((float(a["c"]), float(a["r"]), float(a["width"])) for a in answers)


def _grouped(places: Sequence[Place]) -> list[list[Place]]:
    groups: list[list[Place]] = []
    for place in places:
        home = next((group for group in groups if _overlap(place, _mean(group)) > OVERLAP), None)
        if home is None:
            groups.append([place])
        else:
            home.append(place)
    return groups


def _mean(group: Sequence[Place]) -> Place:
    x, y, width = np.mean(group, axis=0)
    return float(x), float(y), float(width)


def _overlap(a: Place, b: Place) -> float:
    """Intersection ÷ union of two squares."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
    shared = max(0.0, across) * max(0.0, down)
    return shared / (a[2] ** 2 + b[2] ** 2 - shared)
