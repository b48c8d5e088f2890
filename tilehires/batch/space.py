"""The disk that images take, and what is left of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tilehires.batch.job import Job
from tilehires.stages.generate import GenerateStage
from tilehires.stages.redenoise import CANVAS, PassStage

MB = 2**20


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes that one image takes at most: its stages' results in the cache, and the finished file."""

    cache: int
    file: int

    @property
    def total(self) -> int:
        return self.cache + self.file


def space_of(job: Job) -> Space:
    """What an image will take. The file is counted as if nothing could be compressed, so that less is never promised."""
    crops = {step.name: step.crop.size for step in job.route.steps}
    size, cache = job.route.source, 0
    for stage in job.stages:
        if isinstance(stage, PassStage):
            size = crops.get(stage.name, size)
        cache += size.pixels * 3 * 2 if stage.makes_pixels else 0
        if isinstance(stage, GenerateStage):
            one = stage.checkpoint
            cache += size.ceil_to(CANVAS).pixels // one.vae_factor**2 * one.latent_channels * 4
    return Space(cache, job.route.target.pixels * 4 * (1 if job.config.settings.run.bits == "8" else 2))


def night(images: list[Space], limit: int) -> int:
    """Bytes that a whole run takes at most: the cache is trimmed to `limit` after each image."""
    most = max((image.total for image in images), default=0)
    return min(sum(image.cache for image in images), limit + most) + sum(image.file for image in images)


def free_at(folder: Path) -> int:
    """Bytes free where `folder` is, or will be made."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def in_words(need: int, folder: Path) -> str:
    """ "needs up to 120 MB of disk, and 80 MB are free"."""
    return f"needs up to {-(-need // MB)} MB of disk, and {free_at(folder) // MB} MB are free"
