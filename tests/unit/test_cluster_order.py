"""Which worker gets which image, and what becomes of the rest when one dies or the run stops: with a stand-in for Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tilehires.batch.cluster import Cluster, Done
from tilehires.batch.discover import Found
from tilehires.batch.maker import Made, Task
from tilehires.batch.todo import Todo
from tilehires.batch.worker import Answer, Orders, Settled
from tilehires.config import Config
from tilehires.errors import ConfigError, DiskFullError, Interrupted, MissingError, RunError
from tilehires.records import ErrorRecord, FileRecord, Record

Does = Callable[[str], Any]


class DiedError(Exception):
    """Ray's word for a worker that is no more."""


class BugError(DiedError):
    """Ray's word for an error in the worker's own code."""


@dataclass(eq=False)
class Ref:
    """A call that Ray was asked for."""

    call: Callable[[], Any]


class Stub:
    """A worker in this process, whose images are finished behind the next ones."""

    def __init__(self, number: int, ray: Ray) -> None:
        self.number, self.ray = number, ray
        self.behind: tuple[Answer, ...] = ()

    def settle(self, config: Config) -> Any:
        return self.ray.settled(self.number)

    def begin(self, orders: Orders) -> None:
        assert isinstance(orders.beacon, Path)
        self.ray.beacons.append(orders.beacon)

    def make(self, task: Task, ahead: Path | None = None, *, alone: bool = False) -> tuple[Answer, ...]:
        image = task.image
        if alone:
            self.ray.alone.append(image.id)
        before = self.rest()
        self.ray.made.append((self.number, image.id))
        self.ray.events.append((self.number, "begun", image.id))
        self.ray.ahead.append((self.number, ahead and ahead.name))
        said = self.ray.does(image.id)
        file = FileRecord(image.id, (1, 1), "")
        if said is not None:
            return (*before, Answer(image.id, said))
        self.behind = (Answer(image.id, Made(Record(image.id, file, file, "done"), {})),)
        return (*before, *self.rest()) if alone else before

    def rest(self) -> tuple[Answer, ...]:
        answers, self.behind = self.behind, ()
        self.ray.events += [(self.number, "finished", one.image) for one in answers]
        return answers

    def end(self) -> None:
        pass


class Ray:
    """As much of Ray as the driver uses; a call is made when its answer is waited for, one at a time, the first first.

    `does`: what comes of an image, by its id; None: it is made.
    """

    def __init__(self, does: Does = lambda name: None, settled: Callable[[int], Any] | None = None) -> None:
        self.does = does
        self.settled = settled or (lambda number: fit(number))
        self.made: list[tuple[int, str]] = []
        self.events: list[tuple[int, str, str]] = []
        self.ahead: list[tuple[int, str | None]] = []
        self.alone: list[str] = []
        self.beacons: list[Path] = []
        self.killed: list[int] = []
        self.exceptions = SimpleNamespace(RayError=DiedError, RayTaskError=BugError)
        self._count = 0
        self._answers: dict[Ref, Any] = {}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, "node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0, "node:__internal_head__": 1.0}

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, *_: Any) -> Any:
        self._count += 1
        stub = Stub(self._count, self)

        def method(name: str) -> Any:
            return SimpleNamespace(remote=lambda *given, **named: Ref(lambda: getattr(stub, name)(*given, **named)))

        return SimpleNamespace(
            number=stub.number, **{name: method(name) for name in ("settle", "begin", "make", "rest", "end")}
        )

    def wait(self, refs: list[Any], *, num_returns: int = 1, timeout: float) -> tuple[list[Any], list[Any]]:
        for ref in refs[:num_returns] if timeout else ():
            self._answer(ref)
        ready = [ref for ref in refs if ref in self._answers]
        return ready, [ref for ref in refs if ref not in self._answers]

    def get(self, refs: Any, timeout: float | None = None) -> Any:
        if isinstance(refs, list):
            return [self.get(ref) for ref in refs]
        answer = self._answer(refs)
        if isinstance(answer, DiedError):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)

    def _answer(self, ref: Any) -> Any:
        if ref not in self._answers:
            try:
                self._answers[ref] = ref.call()
            except DiedError as error:
                self._answers[ref] = error
        return self._answers[ref]


def fit(number: int, **changes: Any) -> Settled:
    setup: Any = SimpleNamespace(plan=SimpleNamespace(budget=100 - number))
    return replace(Settled(setup, {"device": "cpu", "tile_batch": number}, f"host{number}", number), **changes)


def images(names: str) -> Iterator[Task]:
    return (Task(Found(name, Path(name), name, ()), Config()) for name in names)


def done(ray: Ray, todo: Iterator[Any], folder: Path, workers: int = 2) -> Iterator[Done]:
    """What comes back, in a run of that many workers."""
    cluster = Cluster(ray, workers)
    setup = cluster.set_up(Config.load())
    with cluster.working(setup, folder, folder, force=frozenset(), until=None):
        yield from cluster.images(todo, lambda text: None)


def dies_over(*names: str) -> Does:
    def does(name: str) -> None:
        if name in names:
            raise DiedError("died")

    return does


def test_every_image_is_made_once_by_whoever_is_free(tmp_path: Path) -> None:
    ray = Ray()
    assert sorted(one.image.id for one in done(ray, images("abcdefg"), tmp_path)) == list("abcdefg")
    assert len(ray.made) == 7 and {number for number, _ in ray.made} == {1, 2}
    assert not list(tmp_path.iterdir()), "the beacon goes with the run"


def test_where_there_is_no_gpu_each_machine_has_one(tmp_path: Path) -> None:
    ray = Ray()
    assert len(list(done(ray, images("abcd"), tmp_path, workers=0))) == 4
    assert {number for number, _ in ray.made} == {1, 2}


def test_an_image_that_kills_its_workers_is_given_up_alone(tmp_path: Path) -> None:
    ray = Ray(dies_over("a", "b", "d"))
    came = {one.image.id: one.answer.made for one in done(ray, images("abcdef"), tmp_path)}
    assert sorted(came) == list("abcdef"), "what is still to do waits for the new workers"
    lost = {name for name, made in came.items() if isinstance(made, ErrorRecord)}
    assert lost == {"a", "b", "d"}
    assert [name for _, name in ray.made].count("a") == 2
    by = [number for number, name in ray.made if name == "a"]
    assert by[0] != by[1]


def test_a_worker_has_one_image_at_work_and_one_behind(tmp_path: Path) -> None:
    ray = Ray()
    assert len(list(done(ray, images("abcde"), tmp_path, workers=1))) == 5
    # The stand-in finishes the one behind when it is asked to: at the next image, or when there is none.
    expected = [("begun", "a")]
    for before, name in zip("abcd", "bcde", strict=True):
        expected += [("finished", before), ("begun", name)]
    assert [event[1:] for event in ray.events] == [*expected, ("finished", "e")]
    assert ray.ahead == [(1, name) for name in (*"bcde", None)]


def test_what_a_slow_worker_has_in_view_is_made_by_another() -> None:
    todo = Todo(images("abcdef"))
    assert todo.next("x") and todo.next("y")
    views = [todo.view(worker) for worker in "xyx"]
    assert [view and view.image.id for view in views] == ["c", "d", "c"]
    order = [task.image.id for task in iter(lambda: todo.next("y"), None)]
    assert order == list("defc") and todo.over and todo.view("x") is None


def test_an_image_is_not_given_up_for_its_neighbours_sake(tmp_path: Path) -> None:
    ray = Ray(dies_over("b"))
    came = {one.image.id: one.answer.made for one in done(ray, images("abc"), tmp_path, workers=1)}
    assert sorted(came) == list("abc") and isinstance(came["b"], ErrorRecord)
    assert isinstance(came["a"], Made) and isinstance(came["c"], Made)
    assert ray.made == [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (3, "c")], "both are made again"
    assert ray.alone == ["a", "b"]


@pytest.mark.parametrize("name", ["a", "c"], ids=["the first", "the last"])
def test_a_worker_that_dies_once_costs_no_image(tmp_path: Path, name: str) -> None:
    left = [name]

    def once(name: str) -> None:
        if name in left:
            left.remove(name)
            raise DiedError("died")

    came = [one.answer.made for one in done(Ray(once), images("abc"), tmp_path)]
    assert len(came) == 3 and all(isinstance(made, Made) for made in came)


def test_a_full_disk_ends_the_run_after_what_is_at_work(tmp_path: Path) -> None:
    ray = Ray(lambda name: DiskFullError("full") if name == "a" else None)
    came: list[str] = []
    with pytest.raises(DiskFullError):
        for one in done(ray, images("abcdef"), tmp_path):
            came.append(one.image.id)
            assert not ray.beacons[0].exists(), "the others are told at once"
    assert sorted(came) == ["a", "b"] == sorted(name for _, name in ray.made)


def test_the_time_that_is_up_lets_others_finish_their_stage(tmp_path: Path) -> None:
    def todo() -> Iterator[Any]:
        yield from images("ab")
        raise Interrupted("It is 07:00.")

    ray, came = Ray(), []
    with pytest.raises(Interrupted):
        for one in done(ray, todo(), tmp_path):
            assert ray.beacons[0].exists()
            came.append(one.image.id)
    assert sorted(came) == ["a", "b"]


def test_what_is_behind_when_ctrl_c_is_pressed_is_kept(tmp_path: Path) -> None:
    def todo() -> Iterator[Any]:
        yield from images("ab")
        raise KeyboardInterrupt

    ray, came = Ray(), []
    with pytest.raises(KeyboardInterrupt):
        for one in done(ray, todo(), tmp_path, workers=1):
            assert not ray.beacons[0].exists()
            came.append(one.image.id)
    assert came == ["a"] and ray.events == [(1, "begun", "a"), (1, "finished", "a")] and not ray.killed


def test_a_full_disk_is_said_rather_than_the_time(tmp_path: Path) -> None:
    said = {"a": Interrupted("late"), "b": DiskFullError("full")}
    with pytest.raises(DiskFullError):
        list(done(Ray(said.get), images("ab"), tmp_path))


def test_a_bug_in_a_worker_is_no_death(tmp_path: Path) -> None:
    def bug(name: str) -> None:
        raise BugError("KeyError")

    ray = Ray(bug)
    with pytest.raises(BugError):
        list(done(ray, images("abc"), tmp_path))
    assert {1, 2} & set(ray.killed), "who is at work when the run breaks off is ended"


def test_a_run_without_any_worker_left_ends(tmp_path: Path) -> None:
    ray = Ray(dies_over("a"), lambda number: fit(number) if number == 1 else MissingError("no model here"))
    with pytest.raises(RunError, match="No worker is left"):
        list(done(ray, images("abc"), tmp_path, workers=1))


def test_a_worker_that_lacks_something_is_said_before_the_first_image(tmp_path: Path) -> None:
    ray = Ray(settled=lambda number: fit(number) if number == 1 else MissingError("no model here"))
    with pytest.raises(MissingError, match="no model here"):
        list(done(ray, images("abc"), tmp_path))
    assert not ray.made


def test_the_tightest_plan_is_everybodys_and_unlike_machines_are_told() -> None:
    assert Cluster(Ray(), 3).set_up(Config.load()).plan.budget == 97
    other = Ray(settled=lambda number: fit(number, version=str(number)))
    with pytest.raises(ConfigError, match="host1 has tilehires 1"):
        Cluster(other, 2).set_up(Config.load())
    other = Ray(settled=lambda number: fit(number, environment={"torch": number}))
    assert Cluster(other, 2).set_up(Config.load())
    with pytest.raises(ConfigError, match="--deterministic"):
        Cluster(other, 2).set_up(Config.load().with_layer({"run": {"deterministic": True}}, "test"))


def test_more_workers_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers 9, and the cluster has 8 CPUs"):
        Cluster(Ray(), 9).set_up(Config.load())
    with pytest.raises(MissingError, match="no GPU"):
        Cluster(Ray(), 0).set_up(Config.load().with_layer({"run": {"device": "cuda"}}, "test"))
    with pytest.raises(ConfigError, match="names one GPU"):
        Cluster(Ray(), 0).set_up(Config.load().with_layer({"run": {"device": "cuda:1"}}, "test"))
