"""How far a render is from its baseline, in five figures, each blind to something that another one sees.

A mean hides a seam, a count hides where the difference is, SSIM hides a tint: so a luma SSIM, the mean and the worst
block's ΔE2000 (CIEDE2000, scikit-image), and the densest window of differing pixels are taken together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

BLOCK = 64
WINDOW = 32
LEVELS = 8 / 255  # a pixel differs when one of its channels does by more
STRIP = 8 * BLOCK
SPREADS = 4.0  # standard deviations above the mean of N renders of one build (Mitsuba's rendering tests)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Metric:
    """`floor`: no threshold is tighter than this; `higher`: more is better."""

    name: str
    floor: float
    higher: bool
    meaning: str

    def limit(self, spread: Sequence[float]) -> float:
        """The threshold after N renders of one build gave `spread`."""
        if not spread:
            return self.floor
        mean, deviation = float(np.mean(spread)), float(np.std(spread))
        if self.higher:
            return min(self.floor, mean - SPREADS * deviation)
        return max(self.floor, mean + SPREADS * deviation)

    def passes(self, value: float, limit: float) -> bool:
        """NaN never passes."""
        return bool(value >= limit if self.higher else value <= limit)


METRICS = (
    Metric("ssim", 0.97, True, "luma SSIM over the whole image"),
    Metric("delta_e", 1.0, False, "mean ΔE2000"),
    Metric("delta_e_block", 3.0, False, f"mean ΔE2000 of the worst block of {BLOCK} px"),
    Metric("density", 0.02, False, f"share of pixels of the worst {WINDOW} px window that differ by over 8 levels"),
)


@dataclass(frozen=True)
class Comparison:
    """`same_size` false: nothing else was measured. `box`: the worst place, x0, y0, x1, y1 in pixels."""

    same_size: bool
    values: Mapping[str, float]
    box: tuple[int, int, int, int] | None
    identical: bool

    def failures(self, limits: Mapping[str, float]) -> list[str]:
        """The metrics that don't pass, "size" alone where the sizes differ."""
        if not self.same_size:
            return ["size"]
        return [m.name for m in METRICS if not m.passes(self.values[m.name], limits.get(m.name, m.floor))]


def compare(made: Pixels, baseline: Pixels) -> Comparison:
    """Both float32 H×W×3, RGB in [0, 1]. Memory beyond them is that of strips."""
    if made.shape != baseline.shape:
        return Comparison(False, {}, None, False)
    if np.array_equal(made, baseline):
        return Comparison(True, {m.name: 1.0 if m.higher else 0.0 for m in METRICS}, None, True)
    total, worst, place = 0.0, 0.0, (0, 0)
    for y in range(0, made.shape[0], STRIP):
        strip = np.asarray(deltaE_ciede2000(rgb2lab(made[y : y + STRIP]), rgb2lab(baseline[y : y + STRIP])))
        total += float(strip.sum())
        for dy in range(0, strip.shape[0], BLOCK):
            for x in range(0, strip.shape[1], BLOCK):
                value = float(strip[dy : dy + BLOCK, x : x + BLOCK].mean())
                if value > worst:
                    worst, place = value, (y + dy, x)
    density, corner = _densest(made, baseline)
    values = {
        "ssim": _ssim(made @ LUMA, baseline @ LUMA),
        "delta_e": total / (made.shape[0] * made.shape[1]),
        "delta_e_block": worst,
        "density": density,
    }
    (y, x), side = (place, BLOCK) if worst / 3.0 > density / 0.02 else (corner, WINDOW)
    return Comparison(True, values, (x, y, min(x + side, made.shape[1]), min(y + side, made.shape[0])), False)


def _ssim(made: NDArray[np.float32], baseline: NDArray[np.float32]) -> float:
    side = min(7, *made.shape)
    if side < 3:
        return 1.0 if np.array_equal(made, baseline) else 0.0
    value = structural_similarity(made, baseline, data_range=1.0, win_size=side - 1 + side % 2)
    return float(np.asarray(value))


def _densest(made: Pixels, baseline: Pixels) -> tuple[float, tuple[int, int]]:
    """The largest share of differing pixels in any window, and that window's corner (y, x)."""
    differs = (np.abs(made - baseline).max(axis=2) > LEVELS).astype(np.float32)
    height, width = min(WINDOW, differs.shape[0]), min(WINDOW, differs.shape[1])
    shares = cv2.boxFilter(differs, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    inside = shares[: differs.shape[0] - height + 1, : differs.shape[1] - width + 1]
    y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return float(inside[y, x]), (int(y), int(x))


def difference(made: Pixels, baseline: Pixels, gain: float = 16.0) -> Pixels:
    """What differs, times `gain`, on black."""
    return np.clip(np.abs(made - baseline) * np.float32(gain), 0, 1)
