"""What a run would do with each image: sizes, tiles, batch, memory. Reads headers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilehires.batch.address import place_of
from tilehires.batch.hashes import HashMemory
from tilehires.batch.job import Job, decoder_of, prepare
from tilehires.batch.prompts import discovered
from tilehires.batch.setup import Setup, set_up
from tilehires.batch.space import MB, Space, in_words, night, space_of
from tilehires.config import Config
from tilehires.errors import ImageError
from tilehires.memory import GIB, Plan, parse_bytes
from tilehires.stages.detail import MOST, DetailStage
from tilehires.stages.generate import GenerateStage
from tilehires.stages.redenoise import PassStage
from tilehires.stages.redraw import Layout


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One upscale with its second pass. `evaluations`: steps run, each over all tiles; `seam_evaluations`: of the seam fix."""

    name: str
    size: str
    cut: Layout
    batch: int
    evaluations: int
    seam_evaluations: int
    vae: str

    def line(self) -> str:
        if not self.evaluations:
            return f"  {self.name:<8} {self.size:<12} upscale only"
        tile, count = self.cut.grid.tile, len(self.cut.grid.tiles)
        work = self.cut.grid.work * self.evaluations + self.cut.seam_work * self.seam_evaluations
        shape = f"{count} tile{'s' if count > 1 else ''} of {tile}"
        together = "one after the other" if self.cut.tiles else f"{self.batch} at a time"
        seams = f", then {len(self.cut.seams)} pieces over the seams" if self.cut.seams else ""
        return (
            f"  {self.name:<8} {self.size:<12} {shape}, {together}, {self.evaluations} steps{seams}, "
            f"work {work:.1f} x the canvas, VAE {self.vae}"
        )


@dataclass(frozen=True, slots=True)
class PlannedDetail:
    """The detail passes at one place; how many regions there will be, the detectors will tell. `batch`: at most so many of
    one size go together."""

    name: str
    size: str
    passes: tuple[tuple[str, str, int], ...]
    batch: int

    def line(self) -> str:
        rows = (
            f"{detector}: at most {MOST} regions at {size}, {steps} steps each, {self.batch} at a time"
            if steps
            else f"{detector}: detection only"
            for detector, size, steps in self.passes
        )
        return f"  {self.name:<8} {self.size:<12} {'; '.join(rows)}"


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image's way; `error` where it can't be done."""

    id: str
    output: str
    sizes: str
    stages: tuple[PlannedStage | PlannedDetail, ...]
    memory: str
    space: Space
    error: str = ""

    def lines(self) -> list[str]:
        if self.error:
            return [f"{self.id}: {self.error}"]
        head = f"{self.id} -> {self.output}  {self.sizes}, {self.memory}, disk {self.space.total / MB:.0f} MB"
        return [head, *(stage.line() for stage in self.stages)]


def plan(config: Config, source: Path, output: Path | str, *, setup: Setup | None = None) -> list[ImagePlan]:
    """Plan every image of `source`. Writes nothing, loads no weights. Raises RunError as `run` does before its first image.

    `setup`: what `settle` gave for `config`, where the caller has it.
    """
    settings = config.settings.run
    setup = setup or settle(config)
    found = discovered(source, place_of(output, settings.local_folder), setup.config)
    rows = []
    with decoder_of(config) as decoder:
        for image in found.found[: settings.limit or None]:
            try:
                job = prepare(image, setup.config, setup.checkpoint, HashMemory(None), decoder)
                rows.append(_planned(job, setup))
            except ImageError as error:
                rows.append(
                    ImagePlan(image.id, image.output, "", (), "", Space(0, 0), f"{error.message} {error.hint}".rstrip())
                )
    return rows


def disk_line(config: Config, rows: Sequence[ImagePlan], output: Path | str) -> str:
    """What the whole run takes of the disk at most, and what there is. The cache counts up to run.cache_limit."""
    limit = parse_bytes(config.settings.run.cache_limit, what="run.cache_limit")
    folder = place_of(output, config.settings.run.local_folder).folder
    return f"disk: the run {in_words(night([row.space for row in rows], limit), folder)} at {folder}"


def settle(config: Config) -> Setup:
    """What a run with these settings would work with, whatever the images."""
    return set_up(config, load_upscalers=False)


def memory_lines(setup: Setup) -> list[str]:
    """The memory that any image these settings allow takes at most: batch, offload, and what each part needs."""
    head, *rows = setup.plan.lines()
    return [f"memory on {setup.device}, at most: {head}", *rows]


def _planned(job: Job, setup: Setup) -> ImagePlan:
    own = setup.plan_for(job)
    first = tuple(
        PlannedStage(
            stage.name,
            str(stage.settings.size),
            Layout(stage.grid(stage.checkpoint.vae_factor).scaled(stage.checkpoint.vae_factor), (), ()),
            own.tile_batch,
            stage.settings.values.steps,
            0,
            stage.settings.vae_mode,
        )
        for stage in job.stages
        if isinstance(stage, GenerateStage)
    )
    stages = tuple(_planned_stage(stage, own) for stage in job.stages if isinstance(stage, PassStage | DetailStage))
    memory = f"{own.peak / GIB:.2f} of {own.budget / GIB:.1f} GiB on {setup.device} ({own.highest.part}, {own.offload})"
    return ImagePlan(
        job.id, job.found.output, f"{job.route.source} -> {job.route.target}", first + stages, memory, space_of(job)
    )


def _planned_stage(stage: PassStage | DetailStage, plan: Plan) -> PlannedStage | PlannedDetail:
    if isinstance(stage, DetailStage):
        return PlannedDetail(stage.name, str(stage.settings.size), stage.planned(), plan.region_batch)
    return PlannedStage(
        stage.name,
        str(stage.settings.size),
        stage.layout(stage.checkpoint.vae_factor),
        plan.tile_batch,
        stage.steps.run if stage.settings.values.denoise > 0 else 0,
        stage.seam_steps.run,
        stage.settings.vae_mode,
    )
