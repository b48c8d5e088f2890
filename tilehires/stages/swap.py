"""Another checkpoint for a pass. Pixels lie between passes, so that any pair of families goes together; but latents between
a prompt's first pass and a latent upscaler, for which both must be of one family."""

from __future__ import annotations

from tilehires.config.settings import SamplingPass, Settings, hires_pass, tiled_pass
from tilehires.diffusion import checkpoints
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.family import REFINER, SDXL
from tilehires.errors import ConfigError

MOST_STEPS, MOST_DENOISE = 10, 0.5  # beyond these another checkpoint repaints the picture instead of refining it


def checkpoint_of(values: SamplingPass, base: Checkpoint) -> Checkpoint:
    """The pass's own checkpoint, or the run's. Reads headers. Raises MissingError."""
    if values.checkpoint in (None, base.reference):
        return base
    return checkpoints.inspect(values.checkpoint, vae=values.vae)


def passes_of(settings: Settings) -> tuple[tuple[str, SamplingPass], ...]:
    """The two kinds of passes by the name of their first, for an unknown seed."""
    return ("hires", hires_pass(settings, 0)), ("tiled.1", tiled_pass(settings, 0))


def check_hand_over(settings: Settings, base: Checkpoint) -> None:
    """Of a prompt's first pass made with `base`. Raise ConfigError where hires would get latents that it can't read."""
    values = hires_pass(settings, 0)
    if values.denoise == 0 or not values.upscaler.lower().startswith("latent"):
        return
    own = checkpoint_of(values, base)
    shared = own.family is base.family or {own.family, base.family} <= {SDXL, REFINER}
    if not shared or (own.vae_factor, own.latent_channels) != (base.vae_factor, base.latent_channels):
        raise ConfigError(
            f"hires.upscaler = {values.upscaler!r} hands the first pass's latents to hires, and {own.reference} "
            f"({own.family.title}) can't read those of {base.reference} ({base.family.title}).",
            hint="Use an upscaler of pixels (hires.upscaler=Lanczos, or a model), or a checkpoint of the same family.",
        )


def swap_notes(step: str, values: SamplingPass, base: Checkpoint, own: Checkpoint) -> tuple[str, ...]:
    """What to tell the user about a swap that will show. SDXL's refiner was made to go on from another model's picture."""
    if (
        own == base
        or own.family is REFINER
        or values.denoise == 0
        or (values.steps <= MOST_STEPS and values.denoise <= MOST_DENOISE)
    ):
        return ()
    return (
        f"{step} runs {values.steps} steps at denoise {values.denoise:g} with another checkpoint: it repaints much of the "
        f"picture. Up to {MOST_STEPS} steps and {MOST_DENOISE:g} keep it.",
    )
