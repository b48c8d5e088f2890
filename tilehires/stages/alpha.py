"""Transparency takes the same way as the colour, without the diffusion: it is upscaled and put back."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tilehires.stages.route import Route


def resized_alpha(alpha: np.ndarray | None, route: Route) -> np.ndarray | None:
    """`alpha` (float32 HW in [0, 1]) at the output's size, by Lanczos, cropped as the colour was; None stays None."""
    if alpha is None:
        return None
    last = route.steps[-1]
    resized = Image.fromarray(alpha.astype(np.float32), mode=None).resize(
        (last.size.width, last.size.height), Image.Resampling.LANCZOS
    )
    return np.clip(np.asarray(resized)[last.crop.slices], 0.0, 1.0)
