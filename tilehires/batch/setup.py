"""What is settled before the first image: the checkpoint, the upscalers, the device, the plan. Errors here cost no image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tilehires import checks, detectors, memory, upscalers
from tilehires.batch import needs
from tilehires.batch.device import device_of
from tilehires.batch.job import Job
from tilehires.config import Config
from tilehires.config.settings import Settings, generate_pass, tiled_pass
from tilehires.diffusion import checkpoints, samplers
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.lora import Lora
from tilehires.errors import ConfigError, ImageError
from tilehires.geometry import Box, Size
from tilehires.stages import seamless
from tilehires.stages.controls import found
from tilehires.stages.cutting import tile_range
from tilehires.stages.detail import At, DetailStage, detail_stage
from tilehires.stages.extras import Extras, find_extras
from tilehires.stages.looking import check_detector
from tilehires.stages.redenoise import PassStage, pass_settings, vae_files
from tilehires.stages.refining import refiner_of
from tilehires.stages.route import Route, Step
from tilehires.stages.swap import check_hand_over, checkpoint_of, passes_of
from tilehires.upscalers.loading import load_restorer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CANVAS = Size(16384, 16384)  # a large one, on which settings are tried before there is an image
AT: tuple[At, ...] = ("hires", "final")


@dataclass(frozen=True)
class Setup:
    """A run's settled facts. `config` knows the checkpoint's family. `plan` holds for any image that the settings allow."""

    config: Config
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    plan: memory.Plan
    checkpoints: tuple[Checkpoint, ...] = ()
    """All that the passes use."""

    def plan_for(self, job: Job) -> memory.Plan:
        """The plan of one image, by the sizes it passes through. Raises ImageError when it doesn't fit the budget."""
        asked, accelerator = self.config.settings.memory.tile_batch, self.device.type != "cpu"
        parts = needs.of_job(job, self.dtype)
        try:
            return memory.plan_all(parts, budget=self.plan.budget, accelerator=accelerator, asked_batch=asked)
        except ConfigError as error:
            raise ImageError(error.message, hint=error.hint) from error

    def described_plan(self) -> dict[str, Any]:
        """As in report.json."""
        return {
            "tile_batch": self.plan.tile_batch,
            "region_batch": self.plan.region_batch,
            "offload": self.plan.offload,
            "predicted_peak_bytes": self.plan.peak,
            "peaks": {peak.part: peak.bytes for peak in self.plan.peaks},
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
    put: list[tuple[Lora, ...]] = []
    refined: list[tuple[Checkpoint, Checkpoint]] = []
    for step, values in passes_of(settings):
        used.append(checkpoint_of(values, checkpoint) if values.denoise > 0 else checkpoint)
        if refiner := refiner_of(values, used[-1]):
            refined.append((used[-1], refiner))
        samplers.check(values.sampler, values.scheduler, used[-1].family.name)
        found(values, used[-1])
        extras = Extras()
        if values.denoise > 0:
            extras = find_extras(settings, step, values, used[-1].family.name, config.from_image)
        put.append(extras.loras)
        if values.vae is not None:
            vae_files(values.vae)
        upscalers.check(values.upscaler) if load_upscalers else upscalers.files(values.upscaler)
    if settings.run.generate:
        first = generate_pass(settings, 0)
        if refiner := refiner_of(first, checkpoint):
            refined.append((checkpoint, refiner))
        if not settings.run.first_pass_only:
            check_hand_over(settings, checkpoint)
        samplers.check(first.sampler, first.scheduler, checkpoint.family.name)
        find_extras(settings, "generate", first, checkpoint.family.name, config.from_image)
    details = _detail_stages(config, checkpoint)
    checks.require((*settings.check.only, *settings.check.limits))
    checking = check_detector(settings)
    if checking and settings.check.duplicates_detector:
        detectors.check(checking[0])
    seamless.check_settings(settings)
    _check_grid(settings, used[-1])
    device = device_of(settings.run.device)
    dtype = _dtype(settings.model.dtype, device)
    passes = []
    for (_, values), one, loras in zip(passes_of(settings), used, put, strict=True):
        # A refiner that stays on the device is there in the other pass of the same checkpoint, too.
        beside = (refiner for own, refiner in refined if own == one)
        numbers = needs.lora_numbers([loras])
        passes.append((values, needs.Model(one, values.vae, dtype, tuple(dict.fromkeys(beside)), numbers)))
    groups = [needs.of_run(settings, values, model) for values, model in passes]
    for stage in details:
        groups += needs.of_detail(stage, settings, dtype, passes, any_size=True)
    groups += needs.of_check(checking[0] if checking else None)
    # What one of the models can't take is too much for the run.
    plan = memory.plan_all(
        groups,
        budget=_budget(settings, device),
        accelerator=device.type != "cpu",
        asked_batch=settings.memory.tile_batch,
    )
    repairing = (means.checkpoint for stage in details for means in stage.means)
    every = (checkpoint, *used, *(refiner for _, refiner in refined), *repairing)
    return Setup(config, checkpoint, device, dtype, plan, tuple(dict.fromkeys(every)))


def _detail_stages(config: Config, checkpoint: Checkpoint) -> list[DetailStage]:
    """The detail passes, over a large canvas. Raises for a detector, a sampler or a model of theirs that can't be used."""
    way = Route(CANVAS, (Step("hires", CANVAS, Box.of(CANVAS)),))
    stages = []
    for at in AT if config.settings.detail.passes else ():
        if stage := detail_stage(config.settings, way, 0, checkpoint, at, config.from_image):
            stages.append(stage)
            for found_ in stage.found:
                detectors.check(found_)
            for restorer in stage.restorers:
                load_restorer(restorer)
    return stages


def _check_grid(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise ConfigError when tile sizes and overlap contradict each other, before a large image meets them in the night.

    They do on a canvas of a few tiles as on a large one, which may take thousands.
    """
    values = tiled_pass(settings, 0)
    side = min(CANVAS.width, 1 << (4 * tile_range(settings.tiled, checkpoint.family)[1]).bit_length())
    canvas = Size(side, side)
    step = Step("tiled.1", canvas, Box.of(canvas))
    PassStage(step.name, pass_settings(settings, step, values, checkpoint), checkpoint).layout(checkpoint.vae_factor)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return DTYPES[name]
    return torch.float16 if device.type == "cuda" else torch.float32


def _budget(settings: Settings, device: torch.device) -> int:
    """Bytes that the models and their work may take, on the device or, on a CPU, in host memory."""
    if device.type == "cpu":
        return memory.host_budget(settings.memory.ram)
    asked = settings.memory.vram
    return _device_memory(device) if asked == "auto" else memory.parse_bytes(asked, what="memory.vram")


def _device_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return memory.host_memory() // 2  # a Mac's GPU shares the host's memory
