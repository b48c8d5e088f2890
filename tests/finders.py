"""Detail passes in tests: a detector that finds what it is told to, and the words of a quick run with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.batches import Workplace
from tilehires import detectors
from tilehires.detectors import Detection
from tilehires.diffusion import sampling
from tilehires.geometry import Box

PLAIN = ("--denoise", "0", "--set", "hires.upscaler=Lanczos", "--set", "check.enabled=false")
FACE = "{detector='face', width=64, height=64, steps=2, padding=8, crop_factor=1.5, mask_blur=2, confidence=0.5"
BITS = ("--set", "run.bits=16", "--set", "generate.cfg=1")
OUTSIDE = np.ones((160, 192), bool)
OUTSIDE[26:102, 46:122] = (
    False  # a box at (30, 20), (54, 44), dilated by 4, blurred by a kernel of 11, at twice the size
)


class Finder:
    """A detector that finds what it was told to."""

    name, files = "finder", ()

    def __init__(self, found: Sequence[Detection] | Callable[[np.ndarray], Sequence[Detection]]) -> None:
        self.found, self.seen, self.least, self.closed = found, [], [], 0

    def detect(self, pixels: np.ndarray, *, confidence: float) -> tuple[Detection, ...]:
        self.seen.append(pixels.shape)
        self.least.append(confidence)
        return tuple(self.found(pixels) if callable(self.found) else self.found)

    def close(self) -> None:
        self.closed += 1


def finding(monkeypatch: pytest.MonkeyPatch, *found: Detection, where: Any = None) -> Finder:
    finder = Finder(where or found)
    monkeypatch.setattr(detectors, "make", lambda spec, device="cpu": finder)
    return finder


def face(x0: int, y0: int, x1: int, y1: int, score: float = 0.9, mask: np.ndarray | None = None) -> Detection:
    return Detection("face", Box(x0, y0, x1, y1), score, mask)


def passes(*tables: str) -> tuple[str, str]:
    return ("--set", f"detail.passes=[{', '.join(tables)}]")


def paint(place: Workplace) -> None:
    """A smooth picture of 96x80 as a.png."""
    y, x = np.mgrid[0:80, 0:96]
    picture = np.stack([90 + x * 0.8, 120 + y * 0.5, 150 - x * 0.4 + 10 * np.sin(y / 3)], -1)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place.input / "a.png")


def pixels(place: Workplace, name: str = "a.png", output: Path | None = None) -> np.ndarray:
    levels = cv2.imread(str((output or place.output) / name), cv2.IMREAD_UNCHANGED)
    assert levels is not None
    return levels[..., ::-1].astype(np.float32) / (65535 if levels.dtype == np.uint16 else 255)


def regions(place: Workplace) -> list[dict[str, Any]]:
    return place.images()["a.png"]["regions"]


def sampled_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every sampling from now on is called with."""
    stock, seen = sampling.sample, []

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(named)
        return stock(*given, **named)

    monkeypatch.setattr(sampling, "sample", noted)
    return seen
