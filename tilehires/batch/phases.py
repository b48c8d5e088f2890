"""The order of a batch whose passes use several models: a group of images goes as far as one model brings it, then the next.

Without that, a recipe of two checkpoints would read both from disk for every image. What the first passes give waits in the
cache, so a run that ends in between goes on from there, and an image's own turn is what it always is: the stages that
are done come from the cache, the rest is made, checked and written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from tilehires.batch.job import Job
from tilehires.batch.maker import Maker, Task
from tilehires.batch.patience import time_limit
from tilehires.batch.setup import Setup
from tilehires.batch.space import space_of
from tilehires.errors import RunError
from tilehires.memory import parse_bytes
from tilehires.stages import Stage
from tilehires.stages.detail import DetailStage
from tilehires.stages.generate import GenerateStage
from tilehires.stages.redenoise import PassStage

GROUP = 64
"""Images in a group at most: what a review of the first ones would have changed isn't made for all the others."""


def phases_of(maker: Maker, setup: Setup) -> Phases | None:
    """None where one model does all."""
    settings = setup.config.settings
    if len(setup.checkpoints) < 2 and not settings.hires.vae and not settings.tiled.vae:
        return None
    limit = parse_bytes(settings.run.cache_limit, what="run.cache_limit")
    return Phases(maker, limit, settings.run.image_time_limit)


def models_of(stage: Stage) -> tuple[Any, ...]:
    """The (checkpoint, VAE) pairs that a stage loads, in order."""
    if isinstance(stage, PassStage | GenerateStage):
        needed = isinstance(stage, GenerateStage) or stage.settings.values.denoise > 0
        return ((stage.checkpoint, stage.settings.values.vae),) if needed else ()
    if isinstance(stage, DetailStage):
        return tuple((one.checkpoint, one.vae) for one in stage.means)
    return ()


def swaps(stages: Sequence[Stage]) -> tuple[int, ...]:
    """After how many stages another model is needed than the one that is loaded: () where one does all."""
    found, loaded = [], None
    for number, stage in enumerate(stages):
        if models := models_of(stage):
            if loaded is not None and models[0] != loaded:
                found.append(number)
            loaded = models[-1]
    return tuple(found)


class Phases:
    """Brings groups of images to the point where the next model is needed."""

    def __init__(self, maker: Maker, cache: int, seconds: float) -> None:
        """`cache`: the cache's limit in bytes. `seconds`: the limit on one image's time, 0: none."""
        self._maker, self._cache, self._seconds = maker, cache, seconds
        self._done: set[str] = set()

    def begin(self, tasks: Iterator[Task]) -> None:
        """Before an image's own turn. `tasks`: it and those after it that aren't finished; only so many are looked at as the
        cache holds. What goes wrong is told when it goes wrong again, in the image's own turn. Raises RunError.
        """
        first = next(tasks)
        if first.image.id in self._done:
            return
        group = list(self._group(chain((first,), tasks)))
        self._done.update(task.image.id for task, _, _ in group)
        for phase in range(max((len(marks) for _, _, marks in group), default=0)):
            for task, job, marks in group:
                if phase < len(marks):
                    self._advance(task, job, marks[phase])

    def _group(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Job, tuple[int, ...]]]:
        held = 0
        for number, task in enumerate(tasks):
            job = self._job(task)
            if job is not None:
                held += space_of(job).cache
                if number and held > self._cache // 2:
                    return
                yield task, job, swaps(job.stages)
            if number + 1 >= GROUP:
                return

    def _job(self, task: Task) -> Job | None:
        try:
            return self._maker.job(task)
        except RunError:
            raise
        except Exception:
            return None

    def _advance(self, task: Task, job: Job, stages: int) -> None:
        try:
            with time_limit(self._seconds, task.image.id):
                self._maker.advance(job, stages)
        except RunError:
            raise
        except Exception:
            return
