"""Inpainting: a pass repaints part of the canvas and keeps the rest, as diffusers' inpaint pipelines do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from tilehires.diffusion.components import Diffusion
from tilehires.tiling import vae


@dataclass(frozen=True)
class Inpaint:
    """What of a canvas a pass repaints. All in latent cells, float32, on the CPU, with a batch axis of 1 or the pass's own.

    A UNet of C channels (C the latents' depth) is blended: after each step, what is kept is put back, noised to that
    step's level. One of 2·C+1 channels, made for inpainting, sees mask and `masked` beside the latents, and isn't blended.
    """

    mask: torch.Tensor
    """B×1×h×w in [0, 1]: 1 repaints, 0 keeps, between is a mixture."""
    original: torch.Tensor
    """B×C×h×w, as the VAE's encode gives them: what is kept."""
    masked: torch.Tensor | None = None
    """B×C×h×w: the latents of the picture with what is repainted made grey. For UNets of 2·C+1 channels only."""
    gradual: bool = False
    """A cell of share m is repainted in the last part m of the steps alone, and then wholly (Levin and Fried 2023,
    "Differential Diffusion")."""

    @property
    def channels(self) -> torch.Tensor:
        """B×(1+C)×h×w: what an inpainting UNet sees beside the latents. Raises ValueError without `masked`."""
        if self.masked is None:
            raise ValueError("this UNet was made for inpainting: it needs the masked picture's latents")
        return torch.cat([self.mask, self.masked], dim=1)

    def kept(
        self, x: torch.Tensor, scheduler: Any, noise: torch.Tensor, after: torch.Tensor, left: float
    ) -> torch.Tensor:
        """`x` with what is kept put back, noised to the level of the next step, `after`; untouched where that is empty.

        `left`: the part of the steps that is still to come.
        """
        original, mask = self.original.to(noise), self.mask.to(noise)
        if self.gradual:
            mask = (mask > left).to(noise)
        if len(after):
            original = scheduler.add_noise(original, noise, after)
        return (1 - mask) * original + mask * x


def latent_channels(model: Diffusion) -> int:
    """Depth of the model's latents."""
    return model.vae.config["latent_channels"]


def sees_mask(model: Diffusion) -> bool:
    """Whether the UNet was made for inpainting: it takes latents, mask and masked latents, 2·C+1 channels."""
    return model.unet.config["in_channels"] == 2 * latent_channels(model) + 1


def prepare(
    model: Diffusion,
    pixels: torch.Tensor,
    mask: torch.Tensor,
    *,
    mode: vae.Mode,
    device: torch.device | str = "cpu",
) -> Inpaint:
    """Encode a picture and its mask as the stock pipelines do, but for the VAE's mode in place of a random sample.

    `pixels`: B×3×H×W in [-1, 1]; `mask`: B×1×H×W in [0, 1], of which 0.5 and more is repainted; both on the CPU. The VAE
    must be on `device`.
    """
    repainted = (mask >= 0.5).to(pixels.dtype)
    original = vae.encode(model.vae, pixels, mode=mode, device=device)
    masked = None
    if sees_mask(model):
        masked = vae.encode(model.vae, pixels * (1 - repainted), mode=mode, device=device)
    return Inpaint(F.interpolate(repainted, size=original.shape[-2:]), original, masked)
