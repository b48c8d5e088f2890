"""A second checkpoint for the last part of a pass, on the same latents: SDXL's refiner."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tilehires.config.settings import SamplingPass
from tilehires.diffusion import checkpoints
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.family import REFINER, SDXL
from tilehires.diffusion.prompts import Course, Encoding
from tilehires.diffusion.sampling import Switch
from tilehires.diffusion.syntax import Count
from tilehires.errors import ConfigError


def refiner_of(values: SamplingPass, own: Checkpoint) -> Checkpoint | None:
    """The refiner of a pass whose checkpoint is `own`. Reads headers.

    Raises MissingError when it isn't there, ConfigError when the two don't work on the same latents.
    """
    if values.refiner is None or values.denoise == 0:
        return None
    hint = "Name an SDXL checkpoint or SDXL's refiner as generate.refiner (hires.refiner, tiled.refiner), with an SDXL one."
    found = checkpoints.inspect(values.refiner, vae=values.vae)
    for one, what in ((found, "The refiner"), (own, "The checkpoint to refine")):
        if one.family not in (SDXL, REFINER):
            raise ConfigError(f"{what} {one.reference} is {one.family.title}, not SDXL.", hint=hint)
    if found.prediction != own.prediction:
        raise ConfigError(
            f"The refiner {found.reference} predicts {found.prediction}, and {own.reference} {own.prediction}.",
            hint="Both must predict the same. Use it as the pass's own checkpoint: hires.checkpoint.",
        )
    return found


def heard(
    bay: Bay, model: Diffusion, refiner: Checkpoint | None, values: SamplingPass, count: Count, encoding: Encoding
) -> tuple[Course, Switch | None]:
    """The prompts of a pass as its model hears them; and where one takes over, the switch to the refiner, which hears them
    in its own words. The two UNets take turns on the device.
    """

    def course(one: Diffusion, encoding: Encoding) -> Course:
        return bay.course(
            one, values.prompt, values.negative_prompt, guided=values.cfg > 1, count=count, encoding=encoding
        )

    first = course(model, encoding)
    if refiner is None:
        return first, None
    second = bay.refiner(refiner, values.vae)
    if second.scored:
        # It has the second of SDXL's two text encoders.
        encoding = replace(encoding, embeddings={name: rows[-1:] for name, rows in encoding.embeddings.items()})
    return first, Switch(second, course(second, encoding).at, values.switch_at, partial(bay.instead, second.unet))
