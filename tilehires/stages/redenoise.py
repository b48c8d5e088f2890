"""hires and tiled.N: upscale to the step's size, then re-noise at `denoise` and sample there, in tiles where it is large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tilehires import memory, upscalers
from tilehires.config.model import Seamless
from tilehires.config.settings import SamplingPass, Settings
from tilehires.diffusion import noise, prompts, samplers, sampling
from tilehires.diffusion.checkpoints import Checkpoint, vae_path, weights_of
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.syntax import Count
from tilehires.errors import MissingError
from tilehires.geometry import OPEN, Box, Size, Wrap
from tilehires.memory import VaeMode
from tilehires.progress import Counted, Silent
from tilehires.stages import Less, Source, StageResult, Tools
from tilehires.stages.controls import controls, found
from tilehires.stages.cutting import cut, tile_range
from tilehires.stages.extras import Extras, Fitted, fitted
from tilehires.stages.hooks import before_sampling, before_second_pass
from tilehires.stages.latents import enlarged, enlarged_latents
from tilehires.stages.pixels import Passages, to_latents, to_pixels
from tilehires.stages.redraw import Layout, Painter, RedrawSettings, layout
from tilehires.stages.refining import heard
from tilehires.stages.route import Step
from tilehires.stages.tones import tones
from tilehires.tiling import lock
from tilehires.tiling.circular import circular
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid
from tilehires.upscalers import ring
from tilehires.upscalers.latent import LatentMode
from tilehires.upscalers.protocol import Upscaler

CANVAS = 64  # the canvas is padded to this multiple of pixels, so that every level of every UNet divides evenly


class PassSettings(BaseModel):
    """Everything that shapes the pixels of one step."""

    model_config = ConfigDict(frozen=True)

    size: Size
    crop: Box
    values: SamplingPass
    clip_skip: int
    emphasis: prompts.Emphasis
    first_steps: int
    dtype: str
    tile_min: int
    tile_max: int
    overlap: int
    in_tiles: bool
    time_ids: Literal["tile", "global", "crop"]
    vae_mode: VaeMode
    patch_vae_mode: VaeMode
    upscaler_tile: int
    redraw: RedrawSettings
    seamless: Seamless

    @property
    def wrap(self) -> Wrap:
        return Wrap.of(self.seamless)


def pass_settings(settings: Settings, step: Step, values: SamplingPass, checkpoint: Checkpoint) -> PassSettings:
    """The slice of the settings that step uses; zeros filled in from the model family."""
    tiled = settings.tiled
    tile_min, tile_max = tile_range(tiled, checkpoint.family)

    def vae_mode(size: Size) -> VaeMode:
        largest, budget = settings.memory.vae_whole_max, memory.host_budget(settings.memory.ram)
        return memory.vae_mode(settings.memory.vae, size, checkpoint.vae, whole_max=largest, budget=budget)

    return PassSettings(
        size=step.size,
        crop=step.crop,
        values=values,
        clip_skip=settings.model.clip_skip,
        emphasis=settings.model.emphasis,
        first_steps=settings.generate.steps,
        dtype=settings.model.dtype,
        tile_min=tile_min,
        tile_max=tile_max,
        overlap=tiled.overlap,
        in_tiles=step.name != "hires" or step.size.long_side > settings.hires.max_canvas,
        time_ids=tiled.time_ids,
        vae_mode=vae_mode(step.size.ceil_to(CANVAS)),
        patch_vae_mode=vae_mode(Size(tile_max, tile_max)),
        upscaler_tile=settings.memory.upscaler_tile,
        redraw=RedrawSettings.of(tiled),
        seamless=settings.model.seamless,
    )


@dataclass(frozen=True, eq=False)
class Begun:
    """What a second pass begins with: latents that were enlarged, or pixels at its size; and what it shows, for the lock and
    the ControlNets."""

    latents: torch.Tensor | None
    upscaled: np.ndarray | None
    shown: np.ndarray


class PassStage:
    """One upscale with its second pass. With denoise 0 it only upscales, and needs no diffusion model."""

    version = 3
    makes_pixels = True

    def __init__(
        self,
        name: str,
        settings: PassSettings,
        checkpoint: Checkpoint,
        extras: Extras | None = None,
        refiner: Checkpoint | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.extras = extras or Extras()
        self.checkpoint = checkpoint
        self.refiner = refiner

    @property
    def models(self) -> tuple[Path, ...]:
        weights: tuple[Path, ...] = ()
        if self.settings.values.denoise > 0:
            weights = self.checkpoint.files + self.checkpoint.configs + self.extras.files
            if self.refiner is not None:
                weights += self.refiner.files + self.refiner.configs
            if self.settings.values.vae is not None:
                weights += vae_files(self.settings.values.vae)
            for net in found(self.settings.values, self.checkpoint):
                weights += net.shaping
        return (*weights, *upscalers.files(self.settings.values.upscaler))

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        s, values = self.settings, self.settings.values
        upscaler = upscalers.resolve(values.upscaler, tools.bay)
        if values.denoise == 0:
            upscaled, calls = self._upscaled(image.pixels, upscaler, tools)
            facts = {
                "upscaler": values.upscaler,
                "upscaler_calls": calls,
                "steps_run": 0,
                "tiles": [],
                "degradations": [],
            }
            return StageResult(upscaled[s.crop.slices], facts)
        ready = fitted(tools.bay, self.checkpoint, values.vae, self.extras)
        passages = Passages(ready.model, tools, s.vae_mode, self.name, s.wrap)
        latents: torch.Tensor | None = None
        if isinstance(upscaler, LatentMode) and not self.layout(ready.model.vae_factor).tiles:
            latents = self._latents(image, upscaler, passages)
            upscaled, calls, shown = None, 0, self._shown(image.pixels, tools)
        else:
            upscaled, calls = self._upscaled(image.pixels, upscaler, tools)
            shown = upscaled
        asked = before_second_pass(tools, self.name, source, upscaled, values)
        own = self._with({"values": asked.values})
        begun = Begun(latents, asked.upscaled, shown if asked.upscaled is None else asked.upscaled)
        made = own.second_pass(begun, ready, passages, tools)
        handed = {"latents": "handed over"} if latents is not None and image.latents is not None else {}
        facts = {"upscaler": values.upscaler, "upscaler_calls": calls, **handed, **made.facts, **asked.facts}
        return replace(made, facts=facts)

    def second_pass(self, begun: Begun, ready: Fitted, passages: Passages, tools: Tools) -> StageResult:
        """What is begun, re-noised and sampled, in tiles where it is large."""
        s, values, model = self.settings, self.settings.values, ready.model
        canvas, parts = s.size.ceil_to(CANVAS), self.layout(model.vae_factor)
        latents, upscaled = begun.latents, begun.upscaled
        wanted = tones(begun.shown, s.size) if values.lock else None
        count = Count(self.steps.run, before=s.first_steps, later=True)
        encoding = prompts.Encoding(s.clip_skip, s.emphasis, ready.embeddings)
        condition, second = heard(tools.bay, model, self.refiner, values, count, encoding)
        family, mode = self.checkpoint.family.name, s.patch_vae_mode
        before = before_sampling(tools, self.name, f"{self.name}: redraw")
        painter = Painter(model, condition.at, values, canvas, s.time_ids, mode, tools, family, second, before)
        if upscaled is not None and parts.tiles:
            pixels, findings = upscaled, ()
            nets = controls(values, self.checkpoint, tools.bay, pixels, s.size)
            steps = painter.redraw(pixels, parts.tiles, values.denoise, f"{self.name}: redraw", nets)
        else:
            if latents is None and upscaled is not None:
                latents = to_latents(upscaled, canvas, passages)
            nets = controls(values, self.checkpoint, tools.bay, begun.shown, s.size, s.wrap)
            made = self._sampled(latents, condition.at, nets, second, model, canvas, tools)
            pixels, steps = tools.scratch.zeros((s.size.height, s.size.width, 3)), made.steps
            findings = to_pixels(made.latents, pixels, passages, fallback=upscaled)
        if parts.seams:
            np.clip(pixels, 0, 1, out=pixels)
            nets = controls(values, self.checkpoint, tools.bay, pixels, s.size)
            seams = f"{self.name}: seams"
            again = replace(painter, before=before_sampling(tools, self.name, seams))
            again.redraw(pixels, parts.seams, s.redraw.seam_denoise, seams, nets)
        if wanted is not None:
            lock.lock(pixels, wanted, values.lock, s.wrap)
        np.clip(pixels, 0, 1, out=pixels)
        facts = {
            "sampler": values.sampler,
            "steps_total": steps.total,
            "steps_start": steps.start,
            "steps_run": steps.run,
            "controlnets": [Path(use.path).name for use in values.controlnets],
            "lock": round(values.lock, 4),
            **({"refiner": Path(values.refiner).name, "switch_at": values.switch_at} if values.refiner else {}),
            **parts.facts(s.redraw, s.crop),
            **passages.facts(),
            **ready.facts,
        }
        return StageResult(pixels[s.crop.slices], facts, findings)

    def _with(self, changes: Mapping[str, Any]) -> PassStage:
        """The same stage with other settings."""
        settings = self.settings.model_copy(update=changes)
        return PassStage(self.name, settings, self.checkpoint, self.extras, self.refiner)

    def _sampled(
        self,
        latents: torch.Tensor | None,
        condition: Callable[[int], prompts.Conditioning],
        nets: tuple[Control, ...],
        second: sampling.Switch | None,
        model: Diffusion,
        canvas: Size,
        tools: Tools,
    ) -> sampling.Sample:
        """The canvas re-noised and sampled, in fused tiles."""
        values, grid = self.settings.values, self.grid(model.vae_factor)
        # Along an axis that is cut the tiles go around the ring; one tile is a ring itself.
        closing = self.settings.wrap.without(grid.wrap)
        working = (model.unet, *(net.model for net in nets))
        closed = circular(closing, *working, *(() if second is None else (second.model.unet,)))
        with tools.bay.on_device(*working), closed:
            return sampling.sample(
                model,
                condition,
                latents,
                scheduler=samplers.make(
                    values.sampler, values.scheduler, model.scheduler_config, self.checkpoint.family.name
                ),
                steps=self.steps,
                cfg=values.cfg,
                noise=noise.CanvasNoise(values.seed, self.name),
                size=canvas,
                denoiser=TiledDenoiser(grid, tools.plan.tile_batch),
                time_ids=self.settings.time_ids,
                controls=nets,
                switch=second,
                before=before_sampling(tools, self.name, f"{self.name}: sampling"),
                resume=tools.resume,
                device=tools.bay.device,
                progress=tools.progress,
                name=f"{self.name}: sampling",
            )

    @property
    def steps(self) -> sampling.Steps:
        """The part of the schedule that runs; only where denoise > 0."""
        return sampling.exact_steps(self.settings.values.steps, self.settings.values.denoise)

    @property
    def seam_steps(self) -> sampling.Steps:
        """The same for the seam fix."""
        return sampling.exact_steps(self.settings.values.steps, self.settings.redraw.seam_denoise)

    def grid(self, factor: int) -> TileGrid:
        """The tiles in cells of `factor` pixels. One tile where the pass works in one piece."""
        s, family = self.settings, self.checkpoint.family
        canvas = s.size.ceil_to(CANVAS)
        if not s.in_tiles:
            return TileGrid.whole(canvas.divided(factor))
        return cut(
            canvas,
            tile_min=s.tile_min,
            tile_max=s.tile_max,
            overlap=s.overlap,
            factor=factor,
            family=family,
            wrap=s.wrap,
        )

    def layout(self, factor: int) -> Layout:
        """How the pass is cut, for a VAE of that factor: into the grid's tiles, or into patches that are redrawn in turn."""
        s, grid = self.settings, self.grid(factor).scaled(factor)
        multiple = self.checkpoint.family.multiple * factor
        return layout(s.redraw, grid, s.size, tile=s.tile_max, unit=factor, multiple=multiple)

    def smaller(self, part: str) -> Less | None:
        """See `Shrinking`. The UNet's tiles lose a quarter of their side, down to 128 px or twice the overlap; the upscaler's
        half, down to 64; a VAE that worked in one piece goes in tiles or strips."""
        s, change = self.settings, {}
        factor = self.checkpoint.vae_factor
        side = self.grid(factor).tile.long_side * factor * 3 // 4 // CANVAS * CANVAS
        if part == "upscaler" and s.upscaler_tile >= 128:
            change = {"upscaler_tile": s.upscaler_tile // 2}
        elif part == "VAE" and "whole" in (s.vae_mode, s.patch_vae_mode):
            change = {"vae_mode": "tiled" if s.vae_mode == "whole" else s.vae_mode, "patch_vae_mode": "tiled"}
        elif part == "UNet" and side >= max(128, 2 * s.overlap):
            change = {"tile_max": side, "tile_min": min(s.tile_min, side), "in_tiles": True}
        if not change:
            return None
        first, value = next(iter(change.items()))
        return Less(self._with(change), f"{first} {value}")

    def _latents(self, image: StageResult, upscaler: LatentMode, passages: Passages) -> torch.Tensor:
        """Those of the canvas: a first pass's own, enlarged, or else of its pixels."""
        size, canvas = self.settings.size, self.settings.size.ceil_to(CANVAS)
        if image.latents is None:
            return enlarged(image.pixels, size, canvas, upscaler, passages)
        height, width = image.pixels.shape[:2]
        scale, cells = (size.height / height, size.width / width), canvas.divided(passages.model.vae_factor)
        return enlarged_latents(image.latents, scale, cells, upscaler, passages.wrap)

    def _shown(self, pixels: np.ndarray, tools: Tools) -> np.ndarray:
        """What a latent upscaler's latents show, for those who look at pixels: of any size, unless its edges must meet."""
        s = self.settings
        if s.wrap == OPEN or not (s.values.lock or s.values.controlnets):
            return pixels
        lanczos = upscalers.resolve("Lanczos")
        return ring.upscale(
            lanczos, pixels, s.size, s.wrap, tile=s.upscaler_tile, progress=Silent(), scratch=tools.scratch
        )

    def _upscaled(self, pixels: np.ndarray, upscaler: Upscaler, tools: Tools) -> tuple[np.ndarray, int]:
        """The picture at the step's size, and how many calls that took: a model's are its tiles, a kernel's is one."""
        counted, s = Counted(tools.progress), self.settings
        made = ring.upscale(
            upscaler, pixels, s.size, s.wrap, tile=s.upscaler_tile, progress=counted, scratch=tools.scratch
        )
        return made, counted.steps


def vae_files(reference: str) -> tuple[Path, ...]:
    """The weight files of the VAE that a setting names. Raises MissingError when there are none."""
    path = vae_path(reference)
    if path.is_dir():
        return weights_of(path)
    if not path.is_file():
        raise MissingError(f"There is no VAE {path}.", hint="Check model.vae, hires.vae and tiled.vae.")
    return (path,)
