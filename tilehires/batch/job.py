"""From a found file to a job: settings merged, sizes planned, stages named. Shared by `run` and `plan`; decodes no pixels."""

from __future__ import annotations

from dataclasses import dataclass

from tilehires import metadata
from tilehires.batch.discover import Found
from tilehires.batch.hashes import HashMemory
from tilehires.config import Config
from tilehires.diffusion import samplers
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.errors import ImageError
from tilehires.images import Probe, check_writable, probe
from tilehires.stages import Stage
from tilehires.stages.order import stages_of
from tilehires.stages.route import Route, route


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


def prepare(found: Found, config: Config, checkpoint: Checkpoint, hashes: HashMemory) -> Job:
    """Read the header and sidecars of an image and plan its way with the run's checkpoint. Raises ImageError."""
    limits = config.settings.run
    header = probe(found.path, max_pixels=limits.max_pixels)
    mine = config.for_image(metadata.from_texts(header.texts), found.sidecars, can_sample=samplers.can_run)
    settings = mine.settings
    if settings.model.checkpoint != config.settings.model.checkpoint:
        raise ImageError(
            f"{found.sidecars[0].name} names another checkpoint.", hint="One run uses one: start another run for it."
        )
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
    return Job(found, header, digest, mine, seed, way, stages_of(settings, way, seed, checkpoint))
