"""The parts of a loaded diffusion model, without a pipeline around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tilehires.tiling.vae import scale_factor


@dataclass(frozen=True)
class Diffusion:
    """`unet`, `vae` and `text_encoders` are diffusers' and transformers' own modules; `tokenizers` go with the encoders."""

    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: Mapping[str, Any]
    """What samplers.make needs: betas, prediction type, spacing."""
    zero_empty_negative: bool = False
    """An empty negative prompt is all zeros (SDXL's base model)."""
    scored: bool = False
    """Conditioned on an aesthetic score in place of a target size (SDXL's refiner)."""

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell."""
        return scale_factor(self.vae)

    @property
    def pooled(self) -> bool:
        """Listens to a text encoder's pooled answer too, and to its last layer but one (SDXL, and its refiner)."""
        return self.scored or len(self.text_encoders) > 1

    def modules(self) -> Iterator[nn.Module]:
        yield from (*self.text_encoders, self.unet, self.vae)
