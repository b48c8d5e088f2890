"""What an upscaler is, and what one is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Size
from tilehires.progress import Progress

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

OVERLAP = 32
"""Overlap of a model's tiles in input pixels where the caller names none; what lies further off hardly counts."""

Pixels = NDArray[np.float32]


class Upscaler(Protocol):
    """Enlarges an image to an exact size."""

    @property
    def name(self) -> str: ...

    @property
    def latent(self) -> bool:
        """It is a `LatentMode`: meant for latents, between two passes; `upscale` then does the same to pixels."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The model files its output depends on."""
        ...

    def upscale(
        self,
        image: Pixels,
        size: Size,
        *,
        tile: int = 512,
        overlap: int = OVERLAP,
        progress: Progress | None = None,
        out: Pixels | None = None,
    ) -> Pixels:
        """`image` (float32 H×W×3 in [0, 1]) at exactly `size`, float32 in [0, 1]; it is never changed in place.

        `tile` and `overlap` in input pixels bound a model's memory; kernels ignore them. `progress` is advanced once
        per tile, after a `begin`. `out`: zeros of H×W×3 at that size, to be written into and returned (it may be mapped
        from a file); None: a new array. Raises ImageError where a model gives values that are not finite.
        """
        ...


class Models(Protocol):
    """Where loaded models come from: diffusion.bay.Bay, or in tests anything that loads."""

    def upscaler(self, path: Path) -> ImageModelDescriptor[Any]: ...


class Factory(Protocol):
    """What an entry point names. Makes an upscaler without loading weights; `check` is called before a run begins."""

    def __call__(self, models: Models | None) -> Upscaler: ...
