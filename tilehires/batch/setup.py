"""What is settled before the first image: the checkpoint, the upscalers, the device, the plan. Errors here cost no image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from tilehires import checks, detectors, memory, upscalers
from tilehires.batch.device import device_of
from tilehires.config import Config
from tilehires.config.settings import Settings, hires_pass, tiled_pass
from tilehires.diffusion import checkpoints, controlnets, samplers
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.geometry import Box, Size
from tilehires.stages.controls import found
from tilehires.stages.cutting import tile_range
from tilehires.stages.detail import resolved
from tilehires.stages.extras import find_extras
from tilehires.stages.means import Means, means_of
from tilehires.stages.redenoise import PassStage, pass_settings, vae_files
from tilehires.stages.route import Step
from tilehires.stages.swap import checkpoint_of, passes_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setup:
    """A run's settled facts. `config` knows the checkpoint's family."""

    config: Config
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    plan: memory.Plan
    checkpoints: tuple[Checkpoint, ...] = ()
    """All that the passes use."""

    def described_plan(self) -> dict[str, Any]:
        """As in report.json."""
        return {
            "tile_batch": self.plan.tile_batch,
            "predicted_peak_bytes": self.plan.peak,
            "budget_bytes": self.plan.budget,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def set_up(config: Config, *, load_upscalers: bool = True) -> Setup:
    """Settle a run. `load_upscalers`: make sure that upscaler files load, and not only that they are there.

    Raises MissingError (5) for a model that isn't there or doesn't load, ConfigError (2) for the rest.
    """
    checkpoint = checkpoints.inspect(
        config.require_checkpoint(), prediction=config.settings.model.prediction, vae=config.settings.model.vae
    )
    config = config.for_family(checkpoint.family.name)
    settings = config.settings
    used: list[Checkpoint] = []
    for step, values in passes_of(settings):
        used.append(checkpoint_of(values, checkpoint) if values.denoise > 0 else checkpoint)
        samplers.check(values.sampler, values.scheduler, used[-1].family.name)
        found(values, used[-1])
        if values.denoise > 0:
            find_extras(settings, step, values, used[-1].family.name, config.from_image)
        if values.vae is not None:
            vae_files(values.vae)
        upscalers.check(values.upscaler) if load_upscalers else upscalers.files(values.upscaler)
    repairs = _detail_means(config, checkpoint)
    checks.require(settings.check.only)
    _check_grid(settings, used[-1])
    device = device_of(settings.run.device)
    dtype = _dtype(settings.model.dtype, device)
    plans = [_plan(config, one, device, dtype) for one in (checkpoint, *used)]
    # What one of the models can't take is too much for the run.
    plan = replace(min(plans, key=lambda plan: plan.tile_batch), peak=max(plan.peak for plan in plans))
    every = (checkpoint, *used, *(one.checkpoint for one in repairs))
    return Setup(config, checkpoint, device, dtype, plan, tuple(dict.fromkeys(every)))


def _detail_means(config: Config, checkpoint: Checkpoint) -> list[Means]:
    """What the detail passes repair with. Raises for a detector, a sampler or a model of theirs that can't be used."""
    found_ = []
    for one, detector in resolved(config.settings):
        found_.append(means_of(one, config.settings, 0, checkpoint, config.from_image))
        detectors.check(detector)
    return found_


def _check_grid(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise ConfigError when tile sizes and overlap contradict each other, before a large image meets them in the night."""
    canvas = Size(16384, 16384)
    values = tiled_pass(settings, 0)
    step = Step("tiled.1", canvas, Box.of(canvas))
    PassStage(step.name, pass_settings(settings, step, values, checkpoint), checkpoint).layout(checkpoint.vae_factor)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return DTYPES[name]
    return torch.float16 if device.type == "cuda" else torch.float32


def _plan(config: Config, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> memory.Plan:
    settings = config.settings
    family = checkpoint.family
    bytes_each = torch.finfo(dtype).bits // 8
    nets = {net for one in (hires_pass(settings, 0), tiled_pass(settings, 0)) for net in found(one, checkpoint)}
    weights = checkpoint.unet_parameters + sum(controlnets.parameters(net) for net in nets)
    need = memory.Need(weights=weights * bytes_each, per_cell=family.bytes_per_cell * bytes_each / 2)
    side = tile_range(settings.tiled, family)[1] // checkpoint.vae_factor
    canvas = settings.hires.max_canvas // checkpoint.vae_factor
    guided = max(hires_pass(settings, 0).cfg, tiled_pass(settings, 0).cfg) > 1
    accelerator = device.type != "cpu"
    if accelerator:
        budget = _budget(settings.memory.vram, "memory.vram", _device_memory(device))
    else:
        budget = memory.host_budget(settings.memory.ram)
    return memory.plan(
        need,
        Size(side, side),
        memory.MOST_TILES,
        canvas=Size(canvas, canvas),
        budget=budget,
        guided=guided,
        accelerator=accelerator,
        asked_batch=settings.memory.tile_batch,
    )


def _budget(asked: str, name: str, otherwise: int) -> int:
    return otherwise if asked == "auto" else memory.parse_bytes(asked, what=name)


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return memory.host_memory() // 2  # a Mac's GPU shares the host's memory
