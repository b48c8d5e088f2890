"""What one image needs to be made, wherever that is: in the run's own process, or in a worker of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from uuid import uuid4

from tilehires.batch.attempts import milder
from tilehires.batch.discover import Found
from tilehires.batch.job import Job, prepare
from tilehires.batch.outcome import environment_of
from tilehires.batch.process import Context, advance, begin
from tilehires.batch.setup import Setup
from tilehires.batch.space import in_words, space_of
from tilehires.batch.store import Store
from tilehires.batch.workspace import Workspace
from tilehires.callbacks import NO_CALLBACKS, Callbacks
from tilehires.config import Config
from tilehires.diffusion.bay import Bay
from tilehires.errors import DiskFullError
from tilehires.images import Decoder
from tilehires.memory import parse_bytes
from tilehires.progress import Progress
from tilehires.records import Record
from tilehires.scratch import Scratch
from tilehires.stages import Tools


@dataclass(frozen=True)
class Made:
    """A finished image's record, and the hashes of the model files that it was made with."""

    record: Record
    models: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """An image to make. `config`: the run's settings, with what a review changed for it. `accepted`: the hash of the output
    that a reviewer accepted; "" without one.
    """

    image: Found
    config: Config
    accepted: str = ""


class Maker:
    """Makes one image after the other, with models that stay loaded."""

    def __init__(self, setup: Setup, context: Context) -> None:
        """`context`: what all images share; each gets a plan of its own."""
        self._setup = setup
        self.context = context

    def make(self, task: Task) -> Made:
        """Bring one image to its finished file. Raises TilehiresError."""
        begun = self.begin(task)
        return begun if isinstance(begun, Made) else begun()

    def begin(self, task: Task) -> Made | Callable[[], Made]:
        """The same, as far as models are needed: what is returned does the rest, in any thread. Both raise TilehiresError."""
        workspace, job = self.context.workspace, self.job(task)

        def made(record: Record) -> Made:
            files = [path for stage in job.stages for path in stage.models]
            return Made(record, {str(path): workspace.hashes.sha256(path) for path in files})

        with self._told_the_need(job):
            record = begin(job, self.context_for(job), second=self._second(job), accepted=task.accepted)
        if isinstance(record, Record):
            return made(record)

        def rest() -> Made:
            with self._told_the_need(job):
                return made(record())

        return rest

    def job(self, task: Task) -> Job:
        """What will be done to an image; its pixels aren't read. Raises TilehiresError."""
        hashes = self.context.workspace.hashes
        return prepare(task.image, task.config, self._setup.checkpoint, hashes, self.context.decoder)

    def advance(self, job: Job, stages: int) -> None:
        """Do the first so many stages of an image, for the cache. Raises TilehiresError."""
        with self._told_the_need(job):
            advance(job, self.context_for(job), stages)

    @contextlib.contextmanager
    def _told_the_need(self, job: Job) -> Iterator[None]:
        """A full disk is told of with what the image needs."""
        try:
            yield
        except DiskFullError as error:
            words = in_words(space_of(job).total, self.context.workspace.output)
            need = f"{job.id} {words}; `tilehires plan` says it for the whole run."
            raise DiskFullError(error.message, hint=f"{need} {error.hint}") from error

    def _second(self, job: Job) -> tuple[Job, Context] | None:
        """How an image is made once more if it is flagged; None where it isn't."""
        if self._setup.config.settings.check.action != "retry":
            return None
        again = milder(job, self._setup.checkpoint)
        return again, self.context_for(again)

    def context_for(self, job: Job) -> Context:
        """What that image's stages need: the common tools with its own plan. Raises ImageError where none fits the budget."""
        plan = self._setup.plan_for(job)
        environment = {**self.context.environment, "tile_batch": plan.tile_batch, "region_batch": plan.region_batch}
        return replace(
            self.context, tools=replace(self.context.tools, plan=plan, image=job.id), environment=environment
        )


def context_of(
    setup: Setup,
    workspace: Workspace,
    decoder: Decoder,
    progress: Progress,
    *,
    force: frozenset[str] = frozenset(),
    ask: Callable[[], None] = lambda: None,
    callbacks: Callbacks = NO_CALLBACKS,
    before: Context | None = None,
) -> Context:
    """What all images of a run share in one process. `force`: stages to redo; `ask`: called before each stage.

    `before`: that of another setup in the same workspace, whose cache and, where they still fit, loaded models it takes over.
    """
    scratch = Scratch(workspace.staging)
    limit = parse_bytes(setup.config.settings.run.cache_limit, what="run.cache_limit")
    bay = before.tools.bay if before else None
    if bay is None or (bay.device, bay.dtype) != (setup.device, setup.dtype):
        bay = Bay(setup.device, setup.dtype)
    return Context(
        workspace=workspace,
        store=before.store if before else Store(workspace.cache, limit, scratch),
        tools=Tools(bay, setup.plan, progress, scratch, callbacks=callbacks),
        environment=environment_of(setup),
        force=force,
        models={one.reference: workspace.hashes.sha256(one.unet_file) for one in setup.checkpoints},
        decoder=decoder,
        ask=ask,
        run=uuid4().hex,
    )
