"""What a detector is, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Box

Pixels = NDArray[np.float32]
TASKS = ("face", "face-mesh", "hand", "person")
"""What a mediapipe file may be for."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing found: its class (`kind`), its box in pixels of the picture that was looked at, a score in [0, 1].

    `mask`: bool, as large as the box; None where a detector only knows boxes.
    """

    kind: str
    box: Box
    score: float
    mask: NDArray[np.bool_] | None = None


class Detector(Protocol):
    """Finds things in a picture. Made without loading weights; they are loaded on first use, and let go by `close`."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files that its answers depend on."""
        ...

    def detect(self, pixels: Pixels, *, confidence: float) -> tuple[Detection, ...]:
        """Everything of at least that score in `pixels` (float32 H×W×3, RGB in [0, 1]), best first.

        The same pixels give the same answer. Raises MissingError where the weights can't be used.
        """
        ...

    def close(self) -> None:
        """Let go of the weights, so that another model has the device to itself."""
        ...
