"""The same run on several GPUs or machines, by Ray: workers that keep their models, and a driver that keeps all else.

Each worker is an actor (worker.py) that gets one image after the other (todo.py), each while the one before is still checked
and written. Only the driver holds the output folder's lock and writes what is shared: finished.jsonl, hashes, marks, the log,
the report, what is dropped from the cache. So a run that was begun in one process goes on here, and the other way round. All
workers have the same plan and number of threads: which of them makes an image changes nothing about it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilehires.batch.beacon import StoreBeacon
from tilehires.batch.discover import Found
from tilehires.batch.maker import Task
from tilehires.batch.members import GRACE, Member, Members, reason
from tilehires.batch.setup import Setup
from tilehires.batch.todo import Todo
from tilehires.batch.worker import Answer, Orders
from tilehires.config import Config
from tilehires.errors import ConfigError, Interrupted, MissingError, RunError
from tilehires.records import ErrorRecord

TRIES = 2
"""Workers that may die over one image before it is given up."""
LOCAL = "local"


@dataclass(frozen=True)
class Done:
    """An image that a worker is through with."""

    image: Found
    answer: Answer


@dataclass(frozen=True)
class _Given:
    """An image that a worker hasn't answered for: the one at work, or the one behind it."""

    task: Task
    began: float


@contextlib.contextmanager
def joined(address: str, workers: int = 0) -> Iterator[Cluster]:
    """Be in the Ray cluster of that address ("auto" finds the one of this machine), or in one of this machine alone ("local").

    `workers`: how many; 0 is one for each GPU, and where there is none, one for each machine. A Ray that this process is
    connected to already is used as it is. Raises MissingError without Ray, ConfigError where nothing answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise MissingError("--cluster needs Ray.", hint="pip install 'tilehires[cluster]'") from error
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(_connected(ray, address, workers))
        cluster = Cluster(ray, workers)
        stack.callback(cluster.close)
        yield cluster


@contextlib.contextmanager
def _connected(ray: Any, address: str, workers: int) -> Iterator[None]:
    if address.startswith("ray://"):
        raise ConfigError(
            "Ray's client (ray://) isn't supported.",
            hint="Start tilehires on a machine of the cluster: --cluster auto, or --cluster HOST:6379.",
        )
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            options |= {"include_dashboard": False, "object_store_memory": 2**27}
            # Ray keeps a process in reserve for each CPU it is told of.
            options |= {"num_cpus": min(max(workers, 1), max(os.cpu_count() or 1, 2))}
            if len(tempfile.gettempdir()) < 30:  # a longer path is none for a socket
                folder = tempfile.mkdtemp(prefix="tilehires-")
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                options["_temp_dir"] = folder
        # Ray's workers make way for all else on a machine, and here they are the work.
        own = {"RAY_worker_niceness": "0"} if address == LOCAL else {}
        try:
            with _handlers_kept(), _environment(own):
                ray.init(address=address, **options)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"Ray can't be reached at {address!r}: {str(error).splitlines()[0]}",
                hint="Start it with `ray start --head`, and set RAY_AUTH_MODE=token where it asks for a token; or take --cluster"
                " local for the GPUs of this machine.",
            ) from error
        stack.callback(ray.shutdown)
        yield


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are begun inside, where the user hasn't set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the run without its report."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Cluster:
    """Workers that serve one run after the other."""

    def __init__(self, ray: Any, workers: int) -> None:
        """`ray`: the module, connected. `workers`: as `joined`."""
        self._ray = ray
        self._members = Members(ray, workers)
        self._flights: dict[Any, Member] = {}
        self._given: dict[str, dict[str, _Given]] = {}
        self._deaths: Counter[str] = Counter()
        self._config: Config | None = None
        self._orders: Orders | None = None

    @property
    def at_work(self) -> dict[str, int]:
        """The images that aren't finished, and the processes that make them, each on its machine."""
        return {
            image: member.pid for member in self._members.there for image in tuple(self._given.get(member.name, ()))
        }

    def set_up(self, config: Config) -> Setup:
        """Start what workers are missing, and settle a run with them: its plan is the tightest that any of them has.

        Raises RunError as `setup.set_up` on any worker, ConfigError where the cluster has too few GPUs, or unlike ones.
        """
        self._config = config
        self._members.gather(config.settings.run.device)
        return min((one.setup for one in self._members.settle(config)), key=lambda setup: setup.plan.budget)

    @contextlib.contextmanager
    def working(
        self, setup: Setup, output: Path | str, staging: Path, *, force: frozenset[str], until: float | None
    ) -> Iterator[None]:
        """Inside, the workers are in that output folder, or store, which this process has locked. `force`, `until`: as Orders."""
        if isinstance(output, Path):
            beacon, output = staging.absolute() / f"going-{uuid.uuid4().hex}", output.absolute()
        else:
            beacon = StoreBeacon(output)
        beacon.touch()
        self._orders = Orders(setup, output, beacon, force, until)
        try:
            self._members.begin(self._orders)
            yield
        finally:
            beacon.unlink(missing_ok=True)
            for member in self._flights.values():
                self._members.drop(member)
            self._flights, self._given = {}, {}
            self._members.leave()
            self._orders = None

    def images(self, tasks: Iterator[Task], note: Callable[[str], None]) -> Iterator[Done]:
        """Have each image made by the next worker that is free. `tasks` is asked for no more than one for each worker, and one
        in view of each.

        A dead worker's images, the one at work and the one behind, are made by others, and given up after TRIES. Once `tasks`
        or a worker raises a RunError nothing is begun any more; it is raised after what was at work. KeyboardInterrupt stops
        the work at its next step.
        """
        self._deaths.clear()
        todo = Todo(tasks)
        stop: RunError | None = None
        try:
            while True:
                try:
                    self._hand_out(None if stop else todo)
                except RunError as error:
                    stop = error
                    continue
                if not self._flights and (stop or todo.over):
                    break
                self._wait()
                self._members.admit(note)
                for done in self._landed(note, todo):
                    if isinstance(done.answer.made, RunError):
                        stop = _worse(stop, done.answer.made)
                    if stop and not isinstance(stop, Interrupted):
                        self._put_out()
                    yield done
        except KeyboardInterrupt:
            yield from self._last(note)
            raise
        if stop:
            raise stop

    def close(self) -> None:
        """End the workers."""
        self._members.end_all()
        self._flights, self._given = {}, {}

    def _put_out(self) -> None:
        """Have the workers stop at their next step."""
        if self._orders:
            self._orders.beacon.unlink(missing_ok=True)

    def _last(self, note: Callable[[str], None]) -> Iterator[Done]:
        """What is finished within the time that workers have to stop."""
        self._put_out()
        late = time.monotonic() + GRACE
        while time.monotonic() < late:
            self._hand_out(None)
            if not self._flights:
                break
            self._wait()
            yield from self._landed(note, None)

    def _hand_out(self, todo: Todo | None) -> None:
        """An image for each worker that is free; who gets none finishes the one behind. Raises RunError."""
        busy = {member.name for member in self._flights.values()}
        free = [member for member in self._members.there if member.name not in busy]
        given: list[tuple[Member, Task | None]] = []
        try:
            for member in free:
                given.append((member, todo.next(member.name) if todo else None))
        finally:
            for member, task in given:
                if task:
                    self._send(member, task, todo.view(member.name) if todo else None)
                elif self._given.get(member.name):
                    self._flights[member.actor.rest.remote()] = member

    def _send(self, member: Member, task: Task, following: Task | None) -> None:
        # What a worker died over goes alone, so that no image is given up for its neighbour's sake.
        alone = self._deaths[task.image.id] > 0
        ahead = following.image.path if following and not following.image.prompt else None
        self._given.setdefault(member.name, {})[task.image.id] = _Given(task, time.monotonic())
        self._flights[member.actor.make.remote(task, ahead, alone=alone)] = member

    def _wait(self) -> None:
        """Until something comes, a second at most."""
        self._ray.wait([*self._flights, *self._members.awaited], num_returns=1, timeout=1)

    def _landed(self, note: Callable[[str], None], todo: Todo | None) -> list[Done]:
        """What has come back. What is to be tried again goes to `todo`; without it no worker is renewed."""
        landed: list[Done] = []
        refs = list(self._flights)
        for ref in self._ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else ():
            member = self._flights.pop(ref)
            try:
                answers = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError:
                raise  # a bug outside of the worker's fence
            except self._ray.exceptions.RayError as error:
                landed += self._died(member, reason(error), note, todo)
                continue
            given = self._given[member.name]
            landed += [Done(given.pop(answer.image).task.image, answer) for answer in answers]
        return landed

    def _died(self, member: Member, why: str, note: Callable[[str], None], todo: Todo | None) -> list[Done]:
        """What is given up of the images that a worker had when it died."""
        if todo and self._config and self._orders:
            self._members.renew(member, self._config, self._orders)
        else:
            self._members.drop(member)
        given_up = []
        for image, given in self._given.pop(member.name).items():
            note(f"{image}: its worker died: {why}")
            self._deaths[image] += 1
            if todo and self._deaths[image] < TRIES:
                todo.again(given.task)
            elif todo:
                answer = Answer(image, _lost(image), seconds=time.monotonic() - given.began)
                given_up.append(Done(given.task.image, answer))
        return given_up


def _lost(image: str) -> ErrorRecord:
    return ErrorRecord(
        "WorkerLost",
        f"{TRIES} workers died over {image}.",
        "Too little memory is the usual cause (the machine's, not the GPU's). Do it alone, without --cluster, to see why.",
    )


def _worse(stop: RunError | None, other: RunError) -> RunError:
    """What is said when a run ends for two reasons: not just that it was interrupted."""
    return other if stop is None or isinstance(stop, Interrupted) else stop
