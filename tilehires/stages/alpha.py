"""Transparency takes the same way as the colour, without the diffusion: it is upscaled and put back."""

from __future__ import annotations

import numpy as np

from tilehires.geometry import OPEN, Wrap
from tilehires.stages.route import Route
from tilehires.upscalers.pillow import resample
from tilehires.upscalers.protocol import OVERLAP


def resized_alpha(alpha: np.ndarray | None, route: Route, wrap: Wrap = OPEN) -> np.ndarray | None:
    """`alpha` (float32 HW in [0, 1]) at the output's size, by Lanczos, cropped as the colour was; None stays None.

    Along the axes of `wrap` its edges go on at each other, as the colour's do.
    """
    if alpha is None:
        return None
    last, (height, width) = route.steps[-1], alpha.shape
    x, y = OVERLAP * wrap.x, OVERLAP * wrap.y
    framed = np.pad(alpha.astype(np.float32, copy=False), ((y, y), (x, x)), mode="wrap")
    resized = resample(framed, last.size, box=(x, y, x + width, y + height))
    return np.clip(resized[last.crop.slices], 0.0, 1.0)
