"""A worker of a cluster: a process that makes images one after the other, in the output folder that the driver has locked.

As in a run of one process, an image's checks and file are made behind the next one, which was decoded ahead: what came of
an image is the answer to the call after its own.
It appends to no file that others read: hashes, notes and tracebacks go back to the driver with each answer. It works for
as long as the run's beacon stands, a file that the driver takes away to have its workers stop at their next step.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from tilehires import __version__
from tilehires.batch.address import place_of
from tilehires.batch.beacon import StoreBeacon
from tilehires.batch.behind import Behind, Waiting
from tilehires.batch.determinism import deterministic_algorithms
from tilehires.batch.fence import fenced
from tilehires.batch.job import decoder_of
from tilehires.batch.maker import Made, Maker, Task, context_of
from tilehires.batch.outcome import environment_of
from tilehires.batch.patience import time_limit
from tilehires.batch.setup import Setup, set_up
from tilehires.batch.workspace import Learned, Workspace
from tilehires.config import Config
from tilehires.errors import Interrupted, MissingError, RunError
from tilehires.images.ahead import Ahead
from tilehires.progress import Silent
from tilehires.records import ErrorRecord

LOOK_EVERY = 0.2
"""Seconds between two looks at the beacon."""
SEEN_WITHIN = 10.0
"""Seconds that a network folder may take to show a file that another machine just made."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settled:
    """A worker that can do the run: its `setup` and numeric environment, and where it is."""

    setup: Setup
    environment: Mapping[str, Any]
    host: str
    pid: int
    version: str = __version__


@dataclass(frozen=True)
class Orders:
    """A run as its workers see it. `setup`: the same for all of them. `output`: a folder that all share, or a store's address.
    `until`: seconds since the epoch.
    """

    setup: Setup
    output: Path | str
    beacon: Path | StoreBeacon
    force: frozenset[str] = frozenset()
    until: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came of the image of that id, and what the worker said and learned meanwhile. A RunError stops the run."""

    image: str
    made: Made | ErrorRecord | RunError
    notes: tuple[str, ...] = ()
    tracebacks: tuple[str, ...] = ()
    learned: Learned = Learned()
    stored: int = 0
    """Bytes that were added to the cache."""
    seconds: float = 0.0
    """That the image took, without those it waited for the one before it."""


class Worker:
    """Lives in a process of its own, started in the driver's `folder` and with its number of threads.

    What goes wrong is returned, not raised: a cluster would wrap it.
    """

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self._name, self._folder, self._threads = name, folder, threads
        self._open = contextlib.ExitStack()
        self._work: _Work | None = None

    def settle(self, config: Config) -> Settled | RunError:
        """Settle a run here: are all its models and its device there?"""
        try:
            os.chdir(self._folder)  # settings and models are named as seen from there
        except OSError as error:
            return MissingError(
                f"The folder {self._folder} can't be used on {platform.node()}, a machine of the cluster: {error.strerror}.",
                hint="Start tilehires in a folder that all machines share under the same path.",
            )
        torch.set_num_threads(self._threads)
        try:
            setup = set_up(config)
        except RunError as error:
            return type(error)(f"On {platform.node()}: {error.message}", hint=error.hint)
        return Settled(setup, environment_of(setup), platform.node(), os.getpid())

    def begin(self, orders: Orders) -> RunError | None:
        """Take up a run in its output folder."""
        self.end()
        try:
            _wait_for(orders)
            self._begin(orders)
        except RunError as error:
            return error
        return None

    def _begin(self, orders: Orders) -> None:
        config = orders.setup.config
        place = place_of(orders.output, config.settings.run.local_folder)
        workspace = Workspace(place.folder, self._name, place.url)
        self._open.enter_context(deterministic_algorithms(config.settings.run.deterministic))
        self._open.enter_context(workspace.joined())
        ahead = self._open.enter_context(Ahead(decoder_of(config)))
        behind = self._open.enter_context(Behind())
        self._work = _Work(orders, workspace, ahead, behind)

    def make(self, task: Task, ahead: Path | None = None, *, alone: bool = False) -> tuple[Answer, ...]:
        """Bring an image as far as models are needed; a thread does the rest, behind the next one.

        Answers for the image before it, and for this one if nothing is left to do. `ahead`: a file to decode meanwhile.
        `alone`: no other image is in this process while this one is, and it is answered for.
        """
        if self._work is None:
            raise ValueError("the worker was given no run")
        return self._work.make(task, ahead, alone)

    def rest(self) -> tuple[Answer, ...]:
        """Wait for the image behind, and answer for it; () where there is none."""
        return self._work.rest() if self._work else ()

    def end(self) -> None:
        """Leave the output folder; the process stays for another run."""
        self._work = None
        self._open.close()


def _wait_for(orders: Orders) -> None:
    """Until the run's beacon is seen. Raises MissingError when it isn't, RunError when a store can't be used from here."""
    late = time.monotonic() + SEEN_WITHIN
    while not orders.beacon.exists():
        if time.monotonic() > late:
            raise MissingError(
                f"{platform.node()}, a machine of the cluster, doesn't see the output folder {orders.output}.",
                hint="Choose an output folder that all machines share under the same path (NFS, for instance).",
            )
        time.sleep(0.1)


class _Work:
    """A worker's part of a run: its models, the image that is decoded ahead, the one behind."""

    def __init__(self, orders: Orders, workspace: Workspace, ahead: Ahead, behind: Behind) -> None:
        self._orders, self._ahead, self._behind = orders, ahead, behind
        self._heard, self._notes = _Heard(self._look), tuple[str, ...]()
        self._context = context_of(orders.setup, workspace, ahead, self._heard, force=orders.force, ask=self._ask)
        self._maker = Maker(orders.setup, self._context)

    def make(self, task: Task, ahead: Path | None, alone: bool) -> tuple[Answer, ...]:
        """As `Worker.make`."""
        settings = self._orders.setup.config.settings.run
        alone = alone or not settings.overlap
        answers = self.rest() if alone else ()
        began, tracebacks = time.monotonic(), list[str]()
        begun = self._fenced(partial(self._begun, task, None if alone else ahead), tracebacks)
        notes, seconds = self._heard.taken(), time.monotonic() - began
        answers += self.rest()
        if isinstance(begun, Made | ErrorRecord | RunError):
            return (*answers, self._answer(task.image.id, begun, notes, tracebacks, seconds))
        self._behind.begin(Waiting(task.image, began), begun, settings.image_time_limit)
        self._notes = notes
        return (*answers, *self.rest()) if alone else answers

    def rest(self) -> tuple[Answer, ...]:
        """As `Worker.rest`."""
        waiting, self._behind.waiting = self._behind.waiting, None
        if waiting is None:
            return ()
        tracebacks: list[str] = []
        made = self._fenced(self._result, tracebacks)
        seconds = self._behind.ended - waiting.began
        return (self._answer(waiting.image.id, made, self._notes, tracebacks, seconds),)

    def _result(self) -> Made:
        made, workspace = self._behind.result(), self._context.workspace
        if workspace.mirror and made.record.output:
            workspace.mirror.put_preview(made.record.output, self._ahead)
            self._context.store.trim(alone=False)  # the driver, which does it else, may be on another machine
        return made

    def _begun(self, task: Task, ahead: Path | None) -> Made | Callable[[], Made]:
        settings = self._orders.setup.config.settings.run
        self._look()
        with time_limit(settings.image_time_limit, task.image.id):
            self._ahead.then(ahead, max_pixels=settings.max_pixels)
            return self._maker.begin(task)

    def _fenced(self, work: Callable[[], Result], tracebacks: list[str]) -> Result | ErrorRecord | RunError:
        try:
            return fenced(work, tracebacks.append, self._context.workspace.logs)
        except RunError as stop:
            return stop

    def _answer(
        self,
        image: str,
        made: Made | ErrorRecord | RunError,
        notes: tuple[str, ...],
        tracebacks: Sequence[str],
        seconds: float,
    ) -> Answer:
        learned = self._context.workspace.learned()
        return Answer(image, made, notes, tuple(tracebacks), learned, self._context.store.stored(), seconds)

    def _ask(self) -> None:
        """Before each stage."""
        self._look()
        if self._orders.until is not None and time.time() >= self._orders.until:
            raise Interrupted("The time is up.", hint="The same command goes on from here.")

    def _look(self) -> None:
        """Raise Interrupted when the run has ended without this worker."""
        try:
            self._orders.beacon.read_bytes()  # opened, because a network folder may remember names for a minute
        except OSError:
            raise Interrupted("The run was stopped.", hint="The same command goes on from here.") from None


class _Heard(Silent):
    """Keeps the notes for the driver, and looks at the beacon as the work goes on."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._looked = time.monotonic()
        self._notes: list[str] = []

    def begin(self, what: str, total: int) -> None:
        self.advance(0)

    def advance(self, steps: int = 1) -> None:
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            self._look()

    def note(self, message: str) -> None:
        self._notes.append(message)

    def taken(self) -> tuple[str, ...]:
        notes, self._notes = self._notes, []
        return tuple(notes)
