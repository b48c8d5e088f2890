"""Cut-out regions through the model: those of one working size together, each with its own noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tilehires.config.control import ControlNetUse
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.controlnets import ControlNetFile
from tilehires.diffusion.family import Family
from tilehires.diffusion.inpaint import Inpaint, sees_mask
from tilehires.diffusion.noise import CanvasNoise
from tilehires.diffusion.syntax import Count
from tilehires.errors import ImageError
from tilehires.geometry import Box, Size
from tilehires.memory import VaeMode
from tilehires.stages import Tools
from tilehires.stages.controls import at_work
from tilehires.stages.crops import Crop, matched, overlaps, paste, resized, soft
from tilehires.stages.cutting import cut
from tilehires.stages.extras import Fitted
from tilehires.stages.hooks import before_sampling
from tilehires.stages.pieces import NO_LIMIT, most
from tilehires.stages.pixels import Passages, to_latents, to_pixels
from tilehires.stages.regions import placed
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid
from tilehires.upscalers.faces import frontal_faces
from tilehires.upscalers.restore import put_on


@dataclass(frozen=True)
class Work:
    """How a pass samples; `tile`: (least, largest, overlap) in pixels, for regions larger than the model's size.

    `whole_max`: the longest side that the VAE takes in one piece; `far`: how it takes longer ones. `limit`: as crop_of's.
    """

    name: str
    steps: int
    first_steps: int
    cfg: float
    sampler: str
    scheduler: str
    family: Family
    clip_skip: int
    emphasis: prompts.Emphasis
    noise_multiplier: float
    mask_blur: int
    native: int
    tile: tuple[int, int, int]
    time_ids: Literal["tile", "global", "crop"] = "tile"
    controlnets: tuple[ControlNetUse, ...] = ()
    nets: tuple[ControlNetFile, ...] = ()
    noise_mask_feather: int = 0
    restorer: Path | None = None
    restore_visibility: float = 1.0
    restore_on_cpu: bool = False
    whole_max: int = NO_LIMIT
    far: VaeMode = "tiled"
    limit: int = 0

    @property
    def most(self) -> int:
        """Pixels that go through the UNet in one piece."""
        return most(self.native, self.tile[1], self.limit)


@dataclass(frozen=True, eq=False)
class Job:
    """One region to repair. `number`: its place in the pass; `mask`: hard, over the crop; `face`: in the image, if it is one."""

    number: int
    crop: Crop
    mask: NDArray[np.float32]
    prompt: str
    negative: str
    denoise: float
    seed: int
    face: Box | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """Regions of one kind can go through the model together."""
        return (self.crop.work, self.prompt, self.negative, self.denoise)


@dataclass(frozen=True)
class RegionNoise:
    """The noise of several regions at once: to each, what it would draw alone."""

    seeds: tuple[int, ...]
    name: str
    multiplier: float

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        one = (1, *shape[1:])
        return torch.cat([CanvasNoise(seed, self.name).start(one) for seed in self.seeds]) * self.multiplier

    def generator(self, step: int) -> Any:
        # A list: diffusers then draws entry by entry.
        return [CanvasNoise(seed, self.name).generator(step) for seed in self.seeds]


@dataclass(frozen=True)
class Repaired:
    """What came of some regions. `well`: for each, whether it was repaired; `degradations`: what the VAE did otherwise;
    `restored`: how many faces were restored."""

    well: tuple[bool, ...]
    degradations: tuple[str, ...]
    restored: int


def repair(image: NDArray[np.float32], jobs: Sequence[Job], ready: Fitted, work: Work, tools: Tools) -> Repaired:
    """Repair regions of one kind, whose crops share no pixel, in `image` (HWC, in place).

    One whose pixels came back as no numbers is left as it was.
    """
    first, model = jobs[0], ready.model
    size = first.crop.work
    befores = [np.ascontiguousarray(image[job.crop.box.slices]) for job in jobs]
    scaled = [resized(before, size).clip(0, 1) for before in befores]
    passages = Passages(model, tools, _mode(size, work), work.name)
    latents = torch.cat([to_latents(picture, size, passages) for picture in scaled])
    inpaint = _inpaint(jobs, scaled, latents, work, passages)
    steps = sampling.exact_steps(work.steps, first.denoise)
    course = tools.bay.course(
        model,
        first.prompt,
        first.negative,
        guided=work.cfg > 1,
        count=Count(steps.run, before=work.first_steps, later=True),
        encoding=prompts.Encoding(work.clip_skip, work.emphasis, ready.embeddings),
    )
    controls: tuple[Control, ...] = ()
    if work.nets:
        hint = torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)
        hidden = torch.from_numpy(np.stack([resized(job.mask, size) for job in jobs]))[:, None]
        controls = at_work(work.controlnets, work.nets, tools.bay, hint, hidden)
    with tools.bay.on_device(model.unet, *(control.model for control in controls)):
        made = sampling.sample(
            model,
            _repeated(course, len(jobs)).at,
            latents,
            scheduler=samplers.make(work.sampler, work.scheduler, model.scheduler_config, work.family.name),
            steps=steps,
            cfg=work.cfg,
            noise=RegionNoise(tuple(job.seed for job in jobs), work.name, work.noise_multiplier),
            size=size,
            denoiser=_denoiser(size, model, work, tools),
            time_ids=work.time_ids,
            inpaint=inpaint,
            controls=controls,
            before=before_sampling(tools, work.name.partition("/")[0].rpartition(".")[0], f"{work.name}: sampling"),
            device=tools.bay.device,
            progress=tools.progress,
            name=f"{work.name}: sampling",
        )
    made_well = [_decoded(made.latents[i : i + 1], size, passages) for i in range(len(jobs))]
    faces = [0] * len(jobs)
    if work.restorer:
        device = torch.device("cpu") if work.restore_on_cpu else None
        with tools.bay.restorer(work.restorer, device) as restorer:
            for i, job in enumerate(jobs):
                made_well[i], faces[i] = _restored(made_well[i], job, restorer, work.restore_visibility)
    for job, out, before in zip(jobs, made_well, befores, strict=True):
        if out is not None:
            mask = soft(job.mask, work.mask_blur)
            paste(image, matched(resized(out, job.crop.box.size), before, mask), job.crop, mask)
    well = tuple(out is not None for out in made_well)
    return Repaired(well, tuple(passages.facts()["degradations"]), sum(faces))


def _mode(size: Size, work: Work) -> VaeMode:
    return work.far if size.long_side > work.whole_max else "whole"


def _inpaint(
    jobs: Sequence[Job],
    scaled: Sequence[NDArray[np.float32]],
    latents: torch.Tensor,
    work: Work,
    passages: Passages,
) -> Inpaint:
    """The soft masks in cells: each cell's share is the mask's mean over it."""
    model, size = passages.model, jobs[0].crop.work
    cells = size.divided(model.vae_factor)
    planes = []
    for job in jobs:
        large = resized(soft(job.mask, work.noise_mask_feather or work.mask_blur), size)
        small = cv2.resize(large, (cells.width, cells.height), interpolation=cv2.INTER_AREA)
        planes.append(torch.from_numpy(np.asarray(small, np.float32).clip(0, 1)))
    masked = None
    if sees_mask(model):
        # What is repainted is grey to the model, as in training.
        hidden = [
            np.where(resized(job.mask, size)[..., None] >= 0.5, np.float32(0.5), picture)
            for job, picture in zip(jobs, scaled, strict=True)
        ]
        masked = torch.cat([to_latents(picture, size, passages) for picture in hidden])
    return Inpaint(torch.stack(planes)[:, None], latents, masked, gradual=work.noise_mask_feather > 0)


def _repeated(course: prompts.Course, count: int) -> prompts.Course:
    """The same text for `count` regions: each entry that many times in a row."""
    if count == 1:
        return course
    many = [
        replace(
            one,
            embeds=one.embeds.repeat_interleave(count, 0),
            pooled=None if one.pooled is None else one.pooled.repeat_interleave(count, 0),
        )
        for one in course.distinct
    ]
    return prompts.Course(tuple(many), course.steps)


def _denoiser(size: Size, model: Diffusion, work: Work, tools: Tools) -> TiledDenoiser:
    if size.pixels <= work.most:
        return TiledDenoiser(TileGrid.whole(size.divided(model.vae_factor)), tools.plan.tile_batch)
    least, most, overlap = work.tile
    grid = cut(size, tile_min=least, tile_max=most, overlap=overlap, factor=model.vae_factor, family=work.family)
    return TiledDenoiser(grid, tools.plan.tile_batch)


def _decoded(latents: torch.Tensor, size: Size, passages: Passages) -> NDArray[np.float32] | None:
    """A region's pixels; None where they are no numbers."""
    out = np.zeros((size.height, size.width, 3), np.float32)
    if not torch.isfinite(latents).all():
        return None
    try:
        return None if to_pixels(latents, out, passages, fallback=None) else out
    except ImageError:  # the VAE's pixels aren't finite in any number format: that costs this region
        return None


def _restored(
    out: NDArray[np.float32] | None, job: Job, restorer: Any, visibility: float
) -> tuple[NDArray[np.float32] | None, int]:
    """A region with its face restored, or all that are found in one that is more than a face; and how many they were.

    None where the model's answer is no numbers.
    """
    if out is None:
        return None, 0
    faces = frontal_faces(out) if job.face is None else (_in_crop(job.face, job.crop),)
    try:
        return put_on(restorer, out, faces, visibility), len(faces)
    except ImageError:
        return None, 0


def _in_crop(box: Box, crop: Crop) -> Box:
    """A box of the image in a crop's pixels, at the size it is repaired at."""
    across, down = crop.work.width / crop.box.width, crop.work.height / crop.box.height
    return placed(box.shift(-crop.box.x0, -crop.box.y0), (across, down), (0, 0)).clip(crop.work)


def batches(jobs: Sequence[Job], count: int, pixels: int) -> list[list[Job]]:
    """Runs of jobs that may go together, in their order: one kind, no shared pixel, at most `count`.

    One of more than `pixels` goes alone.
    """
    made: list[list[Job]] = []
    for job in jobs:
        last = made[-1] if made else []
        fits = last and len(last) < count and last[0].kind == job.kind and job.crop.work.pixels <= pixels
        if fits and not any(overlaps(job.crop, other.crop) for other in last):
            last.append(job)
        else:
            made.append([job])
    return made
