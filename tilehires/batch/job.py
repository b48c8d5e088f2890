"""From a found file to a job: settings merged, sizes planned, stages named. Shared by `run` and `plan`; decodes no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from tilehires import checks, metadata, upscalers
from tilehires.batch.discover import Found
from tilehires.batch.hashes import HashMemory
from tilehires.config import Config
from tilehires.config.settings import hires_pass, tiled_pass
from tilehires.diffusion import samplers
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.errors import ImageError, RunError
from tilehires.images import Decoder, InProcess, Isolated, Probe, check_writable
from tilehires.stages import Stage
from tilehires.stages.controls import found
from tilehires.stages.detail import DetailStage
from tilehires.stages.order import stages_of
from tilehires.stages.redenoise import PassStage
from tilehires.stages.route import Route, route

# Settled once, before the first image: these shape how the whole run is set up.
RUN_WIDE = (
    *("model.checkpoint", "model.vae", "model.dtype", "model.prediction"),
    *("hires.checkpoint", "hires.vae", "tiled.checkpoint", "tiled.vae"),
    *("memory.vram", "memory.ram", "memory.tile_batch"),
    *("run.device", "run.format", "run.cache_limit", "run.resolve_links"),
    *("run.decode_isolated", "run.decode_seconds"),
    *("run.deterministic", "run.strict", "run.limit", "run.image_time_limit"),
)


@dataclass(frozen=True)
class Job:
    """One image and everything that will be done to it."""

    found: Found
    probe: Probe
    sha256: str
    config: Config
    seed: int
    route: Route
    stages: tuple[Stage, ...]

    @property
    def id(self) -> str:
        return self.found.id


def decoder_of(config: Config) -> Decoder:
    """What decodes a run's images; to be closed at its end."""
    run = config.settings.run
    return Isolated(run.decode_seconds) if run.decode_isolated else InProcess()


def prepare(found: Found, config: Config, checkpoint: Checkpoint, hashes: HashMemory, decoder: Decoder) -> Job:
    """Read the header and sidecars of an image and plan its way with the run's checkpoint. Raises ImageError."""
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
    settings = mine.settings
    _refuse_run_wide(mine, config)
    way = route(header.size, settings.hires, max_pixels=settings.run.max_pixels)
    check_writable(settings.run.format, way.target)
    try:
        digest = hashes.sha256(found.path)
    except OSError as error:
        raise ImageError(
            f"{found.path} can't be read: {error.strerror}.", hint="Check the file's permissions."
        ) from error
    # 32 bits of the hash: what A1111 and its peers take for a seed, so that it can be typed in there as well.
    seed = settings.generate.seed if settings.generate.seed >= 0 else int(digest[:8], 16)
    try:
        stages = stages_of(settings, way, seed, checkpoint, mine.from_image)
    except RunError as error:
        raise ImageError(error.message, hint=error.hint) from error
    notes = dict.fromkeys(
        note
        for stage in stages
        if isinstance(stage, PassStage | DetailStage)
        for note in (stage.extras.notes if isinstance(stage, PassStage) else stage.notes)
    )
    mine = replace(mine, notes=(*mine.notes, *notes))
    if found.sidecars:
        _check(mine, config, stages)
    return Job(found, header, digest, mine, seed, way, stages)


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
        checks.require(mine.settings.check.only)
        for stage in stages:
            if isinstance(stage, PassStage):
                values, own = stage.settings.values, stage.checkpoint
                samplers.check(values.sampler, values.scheduler, own.family.name)
                found(values, own)
                stage.layout(own.vae_factor)
    except RunError as error:
        raise ImageError(error.message, hint=error.hint) from error
