"""From a found file to a job: settings merged, sizes planned, stages named. Shared by `run` and `plan`; decodes no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from tilehires import checks, metadata, upscalers
from tilehires.batch.discover import Found, Prompt
from tilehires.batch.hashes import HashMemory
from tilehires.config import Config
from tilehires.config.layers import Rank
from tilehires.config.settings import Settings, hires_pass, tiled_pass
from tilehires.diffusion import samplers
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.errors import ImageError, RunError, TilehiresError
from tilehires.geometry import Size
from tilehires.images import Decoder, InProcess, Isolated, check_writable
from tilehires.stages import Stage, seamless
from tilehires.stages.controls import found
from tilehires.stages.detail import DetailStage
from tilehires.stages.generate import GenerateStage, first_size
from tilehires.stages.order import stages_of
from tilehires.stages.redenoise import PassStage
from tilehires.stages.route import Route, route
from tilehires.upscalers.loading import load_restorer

# Settled once, before the first image: these shape how the whole run is set up.
RUN_WIDE = (
    *("model.checkpoint", "model.vae", "model.dtype", "model.prediction"),
    *("hires.checkpoint", "hires.vae", "tiled.checkpoint", "tiled.vae"),
    *("generate.refiner", "hires.refiner", "tiled.refiner"),
    *("memory.vram", "memory.ram", "memory.tile_batch"),
    *("run.device", "run.format", "run.cache_limit", "run.resolve_links", "run.local_folder"),
    *("run.decode_isolated", "run.decode_seconds"),
    *("run.deterministic", "run.strict", "run.limit", "run.image_time_limit", "run.overlap"),
    *("run.generate", "run.first_pass_only", "run.watch_settle"),
    *("run.on_finish", "run.on_finish_seconds", "check.action"),
)


@dataclass(frozen=True)
class Job:
    """One image, or one prompt, and everything that will be done to it. `size`: the image's, or its first pass's."""

    found: Found
    size: Size
    sha256: str
    config: Config
    seed: int
    route: Route
    stages: tuple[Stage, ...]

    @property
    def id(self) -> str:
        return self.found.id

    @property
    def before(self) -> str:
        """Where the first pass is kept in the output folder; "" where it isn't."""
        keeps = self.found.prompt and self.route.steps and self.config.settings.hires.keep_before
        return self.found.before if keeps else ""


def decoder_of(config: Config) -> Decoder:
    """What decodes a run's images; to be closed at its end."""
    run = config.settings.run
    return Isolated(run.decode_seconds) if run.decode_isolated else InProcess()


def prepare(found: Found, config: Config, checkpoint: Checkpoint, hashes: HashMemory, decoder: Decoder) -> Job:
    """Read an image's header, or a prompt, and its sidecars, and plan its way with the run's checkpoint. Raises ImageError."""
    if found.prompt:
        return _prepared_prompt(found, found.prompt, config, checkpoint)
    limits = config.settings.run
    header = decoder.probe(found.path, max_pixels=limits.max_pixels)
    said = metadata.read(header.texts) or metadata.Metadata()
    mine = config.for_image(
        said.settings(),
        found.sidecars,
        image_family=said.family,
        can_sample=partial(samplers.can_run, family=checkpoint.family.name),
        source=said.source,
        notes=said.notes,
    )
    _refuse_run_wide(mine, config)
    try:
        digest = hashes.sha256(found.path)
    except OSError as error:
        raise ImageError(
            f"{found.path} can't be read: {error.strerror}.", hint="Check the file's permissions."
        ) from error
    way = route(header.size, mine.settings.hires, max_pixels=mine.settings.run.max_pixels)
    mine = _where_it_can_tile(mine, way, checkpoint)
    return _planned(Job(found, header.size, digest, mine, 0, way, ()), config, checkpoint)


def _where_it_can_tile(mine: Config, way: Route, checkpoint: Checkpoint) -> Config:
    """The settings, less that the picture tiles where only its metadata says so, and a size on its way can't."""
    if mine.from_image("model.seamless"):
        try:
            seamless.check(mine.settings, way, None, checkpoint.vae_factor)
        except TilehiresError as error:
            note = f"Its metadata says that it tiles (Tiling), which is left out. {error.message}"
            return mine.without_metadata("model", ("seamless",), note)
    return mine


def _prepared_prompt(found: Found, prompt: Prompt, config: Config, checkpoint: Checkpoint) -> Job:
    mine = config_of(found, prompt, config)
    settings = mine.settings
    _refuse_run_wide(mine, config)
    if not settings.generate.prompt.strip():
        raise ImageError(
            f"{found.id} says no prompt.", hint='Write what the picture shows, or set generate.prompt = "…" there.'
        )
    size = first_size(settings, checkpoint.family)
    way = Route(size, ())
    if not settings.run.first_pass_only:
        way = route(size, settings.hires, max_pixels=settings.run.max_pixels)
    digest = hashlib.sha256(settings.generate.prompt.encode("utf-8", "surrogateescape")).hexdigest()
    return _planned(Job(found, size, digest, mine, 0, way, ()), config, checkpoint)


def config_of(found: Found, prompt: Prompt, config: Config) -> Config:
    """The settings of a prompt. Raises ImageError when a file beside it is wrong."""
    mine = config.for_image(None, found.sidecars)
    if prompt.text is None:
        return mine
    # Below the flags, so that --set hires.prompt stays; over a preset's own prompts, as --prompt.
    said = {"generate": {"prompt": prompt.text}, "hires": {"prompt": None}, "tiled": {"prompt": None}}
    return mine.with_layer(said, "prompt", Rank.SIDECAR)


def _planned(job: Job, config: Config, checkpoint: Checkpoint) -> Job:
    """The job with its seed and stages; `config` is the run's."""
    mine, settings, prompt = job.config, job.config.settings, job.found.prompt
    check_writable(settings.run.format, job.route.target)
    seed = seed_of(settings, job.sha256, prompt)
    try:
        stages = stages_of(settings, job.route, seed, checkpoint, mine.from_image, prompt=prompt is not None)
    except RunError as error:
        raise ImageError(error.message, hint=error.hint) from error
    notes = dict.fromkeys(
        note
        for stage in stages
        if isinstance(stage, PassStage | GenerateStage | DetailStage)
        for note in (stage.notes if isinstance(stage, DetailStage) else stage.extras.notes)
    )
    mine = replace(mine, notes=(*mine.notes, *notes))
    if job.found.sidecars:
        _check(mine, config, stages)
    return replace(job, config=mine, seed=seed, stages=stages)


def seed_of(settings: Settings, sha256: str, prompt: Prompt | None) -> int:
    """The resolved seed. `sha256`: of the image's bytes, or of the prompt."""
    # 32 bits of the hash: what A1111 and its peers take for a seed, so that it can be typed in there as well.
    seed = settings.generate.seed if settings.generate.seed >= 0 else int(sha256[:8], 16)
    return (seed + (prompt.number if prompt else 0)) % 2**64


def _refuse_run_wide(mine: Config, config: Config) -> None:
    """Raise ImageError when the files beside an image set what a run has only one of: it would be ignored silently."""
    for name in RUN_WIDE:
        section, _, key = name.partition(".")
        if getattr(getattr(mine.settings, section), key) != getattr(getattr(config.settings, section), key):
            raise ImageError(
                f"{mine.origins[name]} sets {name}, which is one for all images of a run.",
                hint="Take it out there, or do this image in a run of its own, with that setting on the command line.",
            )


def _check(mine: Config, config: Config, stages: Sequence[Stage]) -> None:
    """Try what the files beside an image have changed, as set_up did for the run: it must cost this image, not the run."""
    try:
        tried = {hires_pass(config.settings, 0).upscaler, tiled_pass(config.settings, 0).upscaler}
        for values in (hires_pass(mine.settings, 0), tiled_pass(mine.settings, 0)):
            if values.upscaler not in tried:
                upscalers.check(values.upscaler)
        checks.require((*mine.settings.check.only, *mine.settings.check.limits))
        for stage in stages:
            if isinstance(stage, PassStage | GenerateStage):
                values, own = stage.settings.values, stage.checkpoint
                samplers.check(values.sampler, values.scheduler, own.family.name)
                found(values, own)
                stage.grid(own.vae_factor)
            if isinstance(stage, DetailStage):
                for restorer in stage.restorers:
                    load_restorer(restorer)
            if isinstance(stage, PassStage):
                stage.layout(stage.checkpoint.vae_factor)
    except RunError as error:
        raise ImageError(error.message, hint=error.hint) from error
