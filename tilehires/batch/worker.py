"""A worker of a cluster: a process that makes images one at a time, in the output folder that the driver has locked.

It appends to no file that others read: hashes, notes and tracebacks go back to the driver with each answer. It works for
as long as the run's beacon stands, a file that the driver takes away to have its workers stop at their next step.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilehires import __version__
from tilehires.batch.determinism import deterministic_algorithms
from tilehires.batch.fence import fenced
from tilehires.batch.hashes import Learned
from tilehires.batch.job import decoder_of
from tilehires.batch.maker import Made, Maker, Task, context_of
from tilehires.batch.outcome import environment_of
from tilehires.batch.patience import time_limit
from tilehires.batch.setup import Setup, set_up
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.errors import Interrupted, MissingError, RunError
from tilehires.progress import Silent
from tilehires.records import ErrorRecord, Record

LOOK_EVERY = 0.2
"""Seconds between two looks at the beacon."""
SEEN_WITHIN = 10.0
"""Seconds that a network folder may take to show a file that another machine just made."""


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
    """A run as its workers see it. `setup`: the same for all of them. `until`: seconds since the epoch."""

    setup: Setup
    output: Path
    beacon: Path
    force: frozenset[str] = frozenset()
    until: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came of an image, and what the worker said and learned meanwhile. A RunError stops the run."""

    made: Made | ErrorRecord | RunError
    notes: tuple[str, ...] = ()
    tracebacks: tuple[str, ...] = ()
    hashes: tuple[Learned, ...] = ()
    stored: int = 0
    """Bytes that were added to the cache."""


class Worker:
    """Lives in a process of its own, started in the driver's `folder` and with its number of threads.

    What goes wrong is returned, not raised: a cluster would wrap it.
    """

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self._name, self._folder, self._threads = name, folder, threads
        self._open = contextlib.ExitStack()
        self._orders: Orders | None = None
        self._maker: Maker | None = None
        self._heard = _Heard(lambda: None)

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
        late = time.monotonic() + SEEN_WITHIN
        while not orders.beacon.exists():
            if time.monotonic() > late:
                return MissingError(
                    f"{platform.node()}, a machine of the cluster, doesn't see the output folder {orders.output}.",
                    hint="Choose an output folder that all machines share under the same path (NFS, for instance).",
                )
            time.sleep(0.1)
        try:
            self._begin(orders)
        except RunError as error:
            return error
        return None

    def _begin(self, orders: Orders) -> None:
        config = orders.setup.config
        workspace = Workspace(orders.output, self._name)
        self._open.enter_context(deterministic_algorithms(config.settings.run.deterministic))
        self._open.enter_context(workspace.joined())
        decoder = self._open.enter_context(decoder_of(config))
        self._heard = _Heard(self._look)
        context = context_of(orders.setup, workspace, decoder, self._heard, force=orders.force, ask=self._ask)
        self._orders, self._maker = orders, Maker(orders.setup, context)

    def make(self, task: Task) -> Answer:
        """One image behind the fence."""
        if self._orders is None or self._maker is None:
            raise ValueError("the worker was given no run")
        settings, context = self._orders.setup.config.settings.run, self._maker.context
        maker, made, tracebacks = self._maker, list[Made](), list[str]()

        def work() -> Record:
            with time_limit(settings.image_time_limit, task.image.id):
                made.append(maker.make(task))
            return made[0].record

        outcome: Made | ErrorRecord | RunError
        try:
            self._look()
            error = fenced(work, tracebacks.append, context.workspace.logs)
            outcome = error if isinstance(error, ErrorRecord) else made[0]
        except RunError as stop:
            outcome = stop
        hashes = tuple(context.workspace.hashes.learned())
        return Answer(outcome, self._heard.taken(), tuple(tracebacks), hashes, context.store.stored())

    def end(self) -> None:
        """Leave the output folder; the process stays for another run."""
        self._orders = self._maker = None
        self._open.close()

    def _ask(self) -> None:
        """Before each stage."""
        self._look()
        if self._orders and self._orders.until is not None and time.time() >= self._orders.until:
            raise Interrupted("The time is up.", hint="The same command goes on from here.")

    def _look(self) -> None:
        """Raise Interrupted when the run has ended without this worker."""
        if self._orders:
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
