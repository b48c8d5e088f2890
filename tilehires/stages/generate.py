"""generate: the first pass, a picture from a prompt at the size the model was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tilehires import memory
from tilehires.config.model import Seamless
from tilehires.config.settings import SamplingPass, Settings
from tilehires.diffusion import noise, prompts, samplers, sampling
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.family import Family
from tilehires.diffusion.syntax import Count
from tilehires.geometry import Box, Size, Wrap
from tilehires.memory import VaeMode
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.cutting import cut, tile_range
from tilehires.stages.extras import Extras, fitted
from tilehires.stages.hooks import before_sampling
from tilehires.stages.pixels import Passages, to_pixels
from tilehires.stages.redenoise import CANVAS, vae_files
from tilehires.stages.refining import heard
from tilehires.tiling.circular import circular
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid


class FirstPassSettings(BaseModel):
    """Everything that shapes the pixels of a first pass."""

    model_config = ConfigDict(frozen=True)

    size: Size
    values: SamplingPass
    clip_skip: int
    emphasis: prompts.Emphasis
    dtype: str
    tile_min: int
    tile_max: int
    overlap: int
    in_tiles: bool
    time_ids: Literal["tile", "global", "crop"]
    vae_mode: VaeMode
    seamless: Seamless

    @property
    def wrap(self) -> Wrap:
        return Wrap.of(self.seamless)


def first_size(settings: Settings, family: Family) -> Size:
    """The size of a first pass: as asked for, and the family's native side where nothing is."""
    return Size(settings.generate.width or family.native, settings.generate.height or family.native)


def first_pass_settings(settings: Settings, values: SamplingPass, checkpoint: Checkpoint) -> FirstPassSettings:
    """The slice of the settings that a first pass uses."""
    size = first_size(settings, checkpoint.family)
    tile_min, tile_max = tile_range(settings.tiled, checkpoint.family)
    return FirstPassSettings(
        size=size,
        values=values,
        clip_skip=settings.model.clip_skip,
        emphasis=settings.model.emphasis,
        dtype=settings.model.dtype,
        tile_min=tile_min,
        tile_max=tile_max,
        overlap=settings.tiled.overlap,
        in_tiles=size.long_side > settings.hires.max_canvas,
        time_ids=settings.tiled.time_ids,
        vae_mode=memory.vae_mode(
            settings.memory.vae,
            size.ceil_to(CANVAS),
            checkpoint.vae,
            whole_max=settings.memory.vae_whole_max,
            budget=memory.host_budget(settings.memory.ram),
        ),
        seamless=settings.model.seamless,
    )


class FirstNoise:
    """A first pass begins with the noise that a seed gives in diffusers' pipelines (and A1111's, with its RNG on the CPU).

    What ancestral and SDE samplers draw in their steps is of (seed, pass, step), so that a pass may go on from any step.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._seed, self._steps = seed, noise.CanvasNoise(seed, name)

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        return noise.StockNoise(torch.Generator().manual_seed(self._seed)).start(shape)

    def generator(self, step: int) -> torch.Generator:
        return self._steps.generator(step)


class GenerateStage:
    """Text to picture. Bit-identical to the stock pipeline for samplers that draw no noise in their steps."""

    name = "generate"
    version = 2
    makes_pixels = True

    def __init__(
        self, settings: FirstPassSettings, checkpoint: Checkpoint, extras: Extras, refiner: Checkpoint | None = None
    ) -> None:
        self.settings = settings
        self.extras = extras
        self.checkpoint = checkpoint
        self.refiner = refiner

    @property
    def models(self) -> tuple[Path, ...]:
        own = self.checkpoint.files + self.checkpoint.configs + self.extras.files
        if self.refiner is not None:
            own += self.refiner.files + self.refiner.configs
        return own if self.settings.values.vae is None else (*own, *vae_files(self.settings.values.vae))

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        s, values = self.settings, self.settings.values
        ready = fitted(tools.bay, self.checkpoint, values.vae, self.extras)
        model, canvas = ready.model, s.size.ceil_to(CANVAS)
        encoding = prompts.Encoding(s.clip_skip, s.emphasis, ready.embeddings)
        condition, second = heard(tools.bay, model, self.refiner, values, Count(values.steps), encoding)
        grid = self.grid(model.vae_factor)
        closed = circular(s.wrap.without(grid.wrap), model.unet, *((second.model.unet,) if second else ()))
        with tools.bay.on_device(model.unet), closed:
            made = sampling.sample(
                model,
                condition.at,
                None,
                scheduler=samplers.make(
                    values.sampler, values.scheduler, model.scheduler_config, self.checkpoint.family.name
                ),
                steps=sampling.Steps(values.steps, 0),
                cfg=values.cfg,
                noise=FirstNoise(values.seed, self.name),
                size=canvas,
                denoiser=TiledDenoiser(grid, tools.plan.tile_batch),
                time_ids=s.time_ids,
                switch=second,
                before=before_sampling(tools, self.name, "generate: sampling"),
                resume=tools.resume,
                device=tools.bay.device,
                progress=tools.progress,
                name="generate: sampling",
            )
        pixels = tools.scratch.zeros((s.size.height, s.size.width, 3))
        passages = Passages(model, tools, s.vae_mode, self.name, s.wrap)
        findings = to_pixels(made.latents, pixels, passages, fallback=None)
        np.clip(pixels, 0, 1, out=pixels)
        boxes = (box.scale(model.vae_factor).clip(s.size) for box in grid.boxes())
        facts = {
            "sampler": values.sampler,
            "steps_run": made.steps.run,
            **({"refiner": Path(values.refiner).name, "switch_at": values.switch_at} if values.refiner else {}),
            "size": [s.size.width, s.size.height],
            "tiles": [box.as_list() for box in boxes if box != Box.of(s.size)],
            **passages.facts(),
            **ready.facts,
        }
        return StageResult(pixels, facts, findings, made.latents if torch.isfinite(made.latents).all() else None)

    def grid(self, factor: int) -> TileGrid:
        """The tiles in cells of `factor` pixels: one, unless the canvas is larger than hires.max_canvas."""
        s, canvas = self.settings, self.settings.size.ceil_to(CANVAS)
        if not s.in_tiles:
            return TileGrid.whole(canvas.divided(factor))
        family = self.checkpoint.family
        return cut(
            canvas,
            tile_min=s.tile_min,
            tile_max=s.tile_max,
            overlap=s.overlap,
            factor=factor,
            family=family,
            wrap=s.wrap,
        )
