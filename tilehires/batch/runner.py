"""The run: one image after the other, one error fence around each, a summary whatever happens."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tilehires.batch.address import place_of
from tilehires.batch.behind import Behind, Waiting
from tilehires.batch.copies import keep_copy
from tilehires.batch.determinism import deterministic_algorithms
from tilehires.batch.discover import Discovery, Found
from tilehires.batch.fence import fenced
from tilehires.batch.finish import Finish
from tilehires.batch.finished import finished_of
from tilehires.batch.job import decoder_of
from tilehires.batch.log import RunLog
from tilehires.batch.maker import Made, Maker, Task, context_of
from tilehires.batch.marks import Mark, Marks, read_marks
from tilehires.batch.options import RunOptions, forced
from tilehires.batch.outcome import report_of
from tilehires.batch.patience import time_limit
from tilehires.batch.phases import phases_of
from tilehires.batch.prompts import discovered, jobs_of
from tilehires.batch.setup import Setup, set_up
from tilehires.batch.summary import Summary, summary_of
from tilehires.batch.watch import Watch
from tilehires.batch.workspace import Workspace
from tilehires.callbacks import Callbacks
from tilehires.config import Config
from tilehires.errors import Interrupted, RunError
from tilehires.files import writing
from tilehires.images import suffix_of
from tilehires.images.ahead import Ahead
from tilehires.progress import BatchProgress, SilentBatch
from tilehires.records import ErrorRecord, Record, empty_record

if TYPE_CHECKING:
    from tilehires.batch.cluster import Cluster, Done

REPORT_EVERY = 600.0
"""Seconds between two reports of a run that goes on."""
Result = TypeVar("Result")


def run(
    config: Config,
    source: Path,
    output: Path | str,
    *,
    options: RunOptions | None = None,
    progress: BatchProgress | None = None,
    callbacks: Callbacks | None = None,
) -> Summary:
    """Bring every image of `source` (a folder, or one file) to its finished file under `output`: a folder, or the address
    of an object store as text (s3://bucket/folder).

    An image that fails is recorded, and the next one is done. Raises RunError when the run can't begin or go on: nothing
    to do (2), a missing model (5), another run on the same output (6). Interrupted (Ctrl-C), it returns a summary of what
    was done. `callbacks`: the caller's own functions, asked on the way (docs/python-api.md).
    """
    settings, progress = config.settings.run, progress or SilentBatch()
    options = (options or RunOptions()).with_callbacks(callbacks)
    options.check_watch(source)
    place = place_of(output, settings.local_folder)
    finish = Finish(settings, Workspace(place.folder, url=place.url), progress.note)
    with finish.told():
        setup = options.cluster.set_up(config) if options.cluster else set_up(config)

        def look() -> Discovery:
            return discovered(source, place, setup.config)

        if options.watch:
            watch = Watch(source, look, settings.watch_settle, progress.note)
            summary = _all(setup, Discovery(source, (), ()), finish, options, progress, watch)
        else:
            summary = _all(setup, look(), finish, options, progress)
    return replace(summary, warnings=finish.warnings)


def generate(
    config: Config,
    prompts: Sequence[str],
    output: Path | str,
    *,
    root: Path | None = None,
    options: RunOptions | None = None,
    progress: BatchProgress | None = None,
    callbacks: Callbacks | None = None,
) -> Summary:
    """Make a picture of every prompt, and bring it to its finished file under `output`, as `run` does with images.

    `root`: the file the prompts were read from. `callbacks`, and what is raised, as `run`.
    """
    config = config.with_layer({"run": {"generate": True}}, "generate")
    options = (options or RunOptions()).with_callbacks(callbacks)
    settings, progress = config.settings.run, progress or SilentBatch()
    place = place_of(output, settings.local_folder)
    finish = Finish(settings, Workspace(place.folder, url=place.url), progress.note)
    with finish.told():
        setup = options.cluster.set_up(config) if options.cluster else set_up(config)
        found = jobs_of(prompts, setup.config, suffix_of(settings.format), root or Path.cwd())
        summary = _all(setup, found, finish, options, progress)
    return replace(summary, warnings=finish.warnings)


def _all(
    setup: Setup,
    found: Discovery,
    finish: Finish,
    options: RunOptions,
    progress: BatchProgress,
    watch: Watch | None = None,
) -> Summary:
    marks, workspace = read_marks(options.redo) if options.redo else (), finish.workspace
    with (
        writing(workspace.report),
        workspace.locked(progress.note),
        deterministic_algorithms(setup.config.settings.run.deterministic),
        contextlib.closing(RunLog(workspace.logs)) as log,
        Ahead(decoder_of(setup.config)) as decoder,
    ):
        finish.begin()
        return _Run(setup, found, workspace, options, progress, log, marks, decoder, watch, finish).all()


class _Run:
    """The state of one run: what is done so far."""

    def __init__(
        self,
        setup: Setup,
        found: Discovery,
        workspace: Workspace,
        options: RunOptions,
        progress: BatchProgress,
        log: RunLog,
        marks: Sequence[Mark],
        decoder: Ahead,
        watch: Watch | None,
        finish: Finish,
    ) -> None:
        self.config, self.setup, self.found = setup.config, setup, found
        self.workspace, self.options = workspace, options
        self.progress, self.log, self.watch, self.finish = progress, log, watch, finish
        self.started, self.ahead, self.marks = time.time(), decoder, Marks(workspace.marks, workspace.write_json)
        self.records: dict[str, Record] = {}
        self.marks.review(marks, workspace, self.config, progress.note)
        self.context = context_of(
            setup,
            workspace,
            decoder,
            progress,
            force=forced(options.force),
            ask=options.ask,
            callbacks=options.callbacks,
        )
        self.maker = Maker(setup, self.context)
        self.phases = None if options.force else phases_of(self.maker, setup)
        self.finished = finished_of(
            setup, self.context.environment, workspace, options.callbacks.identity(self.context.run)
        )
        self.reported, self.report_took, self.unreported = time.monotonic(), 0.0, False
        self.limit, self.behind = self.config.settings.run.limit or None, Behind()

    def all(self) -> Summary:
        """Every image in turn, then the report."""
        todo, skipped = self.found.found[: self.limit], self.found.skipped
        self.log.event("start", images=len(todo), skipped=len(skipped), command=self.options.command)
        interrupted = False
        try:
            if self.watch:
                self._watched(self.watch)
            else:
                self._batch(todo)
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
            with contextlib.suppress(Interrupted):
                self._settle()  # the last image's, where that was being waited for
        except RunError as error:
            self.finish.error = error
            # Why the run stopped says more than that, for the same reason, its report can't be written.
            with contextlib.suppress(RunError):
                self._close(interrupted)
            raise
        return self._close(interrupted)

    def _watched(self, watch: Watch) -> None:
        """What is there and what comes, until the time is up, `run.limit` reached, or Ctrl-C pressed."""
        with contextlib.closing(watch.arrivals()) as arrivals:
            for self.found, images in arrivals:
                if images:
                    self._batch(images)
                if (self.limit and len(self.records) >= self.limit) or (
                    self.options.late() and not self._summary(False).left
                ):
                    return
                self.options.ask()
                if self.unreported:
                    self._now_and_then(0)

    def _batch(self, todo: Sequence[Found]) -> None:
        self.progress.begin_batch(len(todo))
        try:
            if self.options.cluster:
                self._all_by(self.options.cluster, todo)
            else:
                self._all_here(todo)
        finally:
            self.progress.end_batch()

    def _all_here(self, todo: Sequence[Found]) -> None:
        """One after the other. While one is computed, the one before it is checked and written, the next one is decoded."""
        with Behind() as self.behind:
            try:
                for number, image in enumerate(todo):
                    self.options.ask()
                    full = self.limit and len(self.records) + self.behind.holds_new(self.records) >= self.limit
                    over = full and image.id not in self.records
                    if not over and (self.watch is None or self.watch.stands(image)):
                        if self.phases and not self._known(image):
                            self.phases.begin(self._task(one) for one in todo[number:] if not self._known(one))
                        self._one(image, *todo[number + 1 : number + 2])
            finally:
                self._settle()

    def _all_by(self, cluster: Cluster, todo: Sequence[Found]) -> None:
        """Hand each image to the next worker that is free, and keep what comes back."""
        until = self.options.until.timestamp() if self.options.until else None
        workspace = self.workspace

        def told(text: str) -> None:
            self.log.event("worker", text=text)
            self.progress.note(text)

        try:
            with cluster.working(
                self.setup, workspace.url or workspace.output, workspace.staging, force=self.context.force, until=until
            ):
                for done in cluster.images(self._unmade(todo), told):
                    self._keep(done)
        finally:
            workspace.tidy()

    def _unmade(self, todo: Sequence[Found]) -> Iterator[Task]:
        """The images that aren't known to be finished, with the settings of each; the others are told of on the way."""
        for image in todo:
            self.options.ask()
            began = time.monotonic()
            known = self._fenced(image, partial(self._known, image))
            if known is None:
                yield self._task(image)
            else:
                self.progress.begin_image(image.id)
                self._end(image, known, time.monotonic() - began)

    def _keep(self, done: Done) -> None:
        """What a worker answered."""
        image, answer = done.image, done.answer
        self.progress.begin_image(image.id)
        for text in answer.notes:
            self.progress.note(text)
        for text in answer.tracebacks:
            self.log.traceback(image.id, text)
        self.workspace.learn(answer.learned)
        self.context.store.grew(answer.stored)
        match answer.made:
            case RunError():
                self.log.event("stop", id=image.id)  # the cluster raises it once the others have stopped
            case Made() as made:
                self._end(image, self._fenced(image, partial(self._taken, image, made)), answer.seconds)
            case ErrorRecord() as error:
                self._end(image, error, answer.seconds)

    def _standing(self, image: Found) -> Record | None:
        """The record of an image that this run leaves alone."""
        if left := self.marks.left(image.id, self.workspace):
            return left
        if self.options.redo is None or image.id in self.marks.due:
            return None
        record = self.workspace.record(image.id)
        return record and replace(record, cached=True)

    def _one(self, image: Found, following: Found | None = None) -> None:
        """One image behind the fence: whatever goes wrong with it is its own record, unless the run itself can't go on."""
        self.progress.begin_image(image.id)
        began = time.monotonic()
        settings = self.config.settings.run

        def work() -> Record | Callable[[], Made]:
            with time_limit(settings.image_time_limit, image.id):
                if known := self._known(image):
                    return known
                ahead = settings.overlap and following and not following.prompt and not self._known(following)
                self.ahead.then(following.path if following and ahead else None, max_pixels=settings.max_pixels)
                begun = self.maker.begin(self._task(image))
                return self._taken(image, begun) if isinstance(begun, Made) else begun

        made = self._fenced(image, work)
        self._settle()
        if isinstance(made, Record | ErrorRecord):
            self._end(image, made, time.monotonic() - began)
            return
        self.behind.begin(Waiting(image, began), made, settings.image_time_limit)
        if not settings.overlap:
            self._settle()

    def _settle(self) -> None:
        """Wait for the image behind, and keep what came of it. Interrupted in it, it can be called again."""
        if waiting := self.behind.waiting:
            record = self._fenced(waiting.image, lambda: self._taken(waiting.image, self.behind.result()))
            self.behind.waiting = None
            self._end(waiting.image, record, self.behind.ended - waiting.began)

    def _known(self, image: Found) -> Record | None:
        """The record of an image that needn't be made, as far as that is known without opening it."""
        return self._standing(image) or (
            None if self.options.force else self.finished.find(image, self.marks.key(image.id))
        )

    def _task(self, image: Found) -> Task:
        return Task(image, self.marks.config(image.id, self.config), self.marks.accepted(image.id))

    def _taken(self, image: Found, made: Made) -> Record:
        """The record of an image that was just made."""
        self.marks.finished(image.id)
        return self.finished.add(image, made.record, made.models, self.marks.key(image.id))

    def _fenced(self, image: Found, work: Callable[[], Result]) -> Result | ErrorRecord:
        try:
            made = fenced(work, lambda text: self.log.traceback(image.id, text), self.workspace.logs)
        except RunError:
            self.options.heed()
            self.log.event("stop", id=image.id)
            raise
        if isinstance(made, ErrorRecord):
            self.options.heed()
        return made

    def _end(self, image: Found, made: Record | ErrorRecord, seconds: float) -> None:
        """Keep and tell what came of an image, which took so long."""
        record = self.marks.reviewed(self._failed(image, made) if isinstance(made, ErrorRecord) else made)
        if self.config.settings.check.action == "review" and (said := keep_copy(record, image.output, self.workspace)):
            self.progress.note(said)
        self.records[image.id] = record
        self.unreported = True
        if not record.cached:
            self.context.store.trim()
        self.log.image(record, seconds)
        self.progress.end_image(image.id, "cached" if record.cached else record.status)
        self._now_and_then()

    def _failed(self, image: Found, error: ErrorRecord) -> Record:
        self.progress.note(f"{image.id}: {error.message} {error.hint}".rstrip())
        record = empty_record(image.id, "failed", error=error, file=image.prompt is None)
        self.workspace.write_record(record)
        return record

    def _now_and_then(self, every: float = REPORT_EVERY) -> None:
        """The report of a night that goes on, so seldom that it takes a twentieth of the time at most."""
        if time.monotonic() - self.reported > max(every, 20 * self.report_took):
            self._report(False)

    def _close(self, interrupted: bool) -> Summary:
        """The report and the summary of what was done until now."""
        self.finish.summary = self._summary(interrupted)
        summary = self._report(interrupted)
        self.finish.write()
        self.log.event("end", **summary.counts(), left=summary.left, interrupted=interrupted)
        return summary

    def _summary(self, interrupted: bool) -> Summary:
        return summary_of(self.records, self.found, interrupted, self.config.settings.run.strict)

    def _report(self, interrupted: bool) -> Summary:
        began = time.monotonic()
        summary = self._summary(interrupted)
        page = report_of(
            summary,
            self.workspace,
            self.found.root,
            started=self.started,
            command=self.options.command or shlex.join(sys.argv),
            setup=self.setup,
            decoder=self.context.decoder,
        )
        self.reported, self.unreported = time.monotonic(), False
        self.report_took = self.reported - began
        return replace(summary, report=page)
