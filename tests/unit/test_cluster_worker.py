"""What a worker answers, and in which order it works, in this process."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.batches import draw
from tests.overlap import LONG, written_late
from tests.stores import listed
from tilehires.batch import beacon, worker
from tilehires.batch.beacon import StoreBeacon
from tilehires.batch.discover import Found
from tilehires.batch.maker import Made, Task
from tilehires.batch.worker import Orders, Settled, Worker
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.errors import Interrupted, MissingError
from tilehires.images import InProcess
from tilehires.records import ErrorRecord
from tilehires.stages.check import CheckStage
from tilehires.stages.redenoise import PassStage

Begun = Callable[..., tuple[Worker, Orders]]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    monkeypatch.chdir(tmp_path)  # a worker goes to the driver's folder
    run = {"device": "cpu", "decode_isolated": False}
    return Config.load().with_layer({"hires": {"denoise": 0.0, "upscaler": "Lanczos"}, "run": run}, "test")


def settled(tmp_path: Path, config: Config) -> tuple[Worker, Settled]:
    one = Worker("one", tmp_path, torch.get_num_threads())
    said = one.settle(config)
    assert isinstance(said, Settled)
    return one, said


def test_a_folder_or_a_model_that_isnt_on_its_machine_is_told_with_the_machines_name(
    tmp_path: Path, config: Config
) -> None:
    said = Worker("one", tmp_path / "nowhere", 1).settle(config)
    assert isinstance(said, MissingError) and "nowhere" in said.message and said.hint
    missing = config.with_layer({"model": {"checkpoint": "nothing.safetensors"}}, "test")
    said = Worker("one", tmp_path, 1).settle(missing)
    assert isinstance(said, MissingError) and said.message.startswith("On ") and "nothing" in said.message


def test_an_output_folder_that_isnt_shared_is_told(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SEEN_WITHIN", 0.2)
    one, said = settled(tmp_path, config)
    error = one.begin(Orders(said.setup, tmp_path / "out", tmp_path / "out" / "going"))
    assert isinstance(error, MissingError) and "doesn't see the output folder" in error.message
    assert not (tmp_path / "out").exists()


def task(folder: Path, name: str, config: Config, seed: int = 0) -> Task:
    path = draw(folder / "in" / name, 24 + seed, 16, seed)
    return Task(Found(name, path, name, ()), config)


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Iterator[Begun]:
    """A worker that has taken up a run, its output folder held by this process as by the driver."""
    with (driver := Workspace(tmp_path / "out")).locked(), contextlib.ExitStack() as stack:

        def begun(**settings: Any) -> tuple[Worker, Orders]:
            one, said = settled(tmp_path, config.with_layer({"run": settings}, "test"))
            stack.callback(one.end)
            beacon = driver.staging / "going"
            beacon.touch()
            orders = Orders(said.setup, driver.output, beacon)
            assert one.begin(orders) is None
            return one, orders

        yield begun
        stack.close()
        assert not [path for path in driver.staging.iterdir() if path.name != "going"], "it leaves nothing"


def test_it_makes_images_while_the_beacon_stands_and_until_the_time_is_up(
    tmp_path: Path, config: Config, run: Begun
) -> None:
    good, bad = task(tmp_path, "a.png", config), task(tmp_path, "b.png", config)
    bad.image.path.write_bytes(b"nothing")
    one, orders = run()
    assert one.make(good) == () and one.rest()[0].image == "a.png" and one.rest() == ()
    (failed,) = one.make(bad)
    assert isinstance(failed.made, ErrorRecord) and failed.made.type == "ImageError" and failed.image == "b.png"
    assert not (tmp_path / "out" / ".tilehires" / "hashes.jsonl").exists()
    assert one.begin(replace(orders, force=frozenset({"hires"}), until=1.0)) is None
    assert isinstance(one.make(good)[0].made, Interrupted), "no stage begins after that time"
    assert one.begin(orders) is None
    orders.beacon.unlink()
    assert isinstance(one.make(good)[0].made, Interrupted)


def test_with_a_store_a_worker_puts_what_it_makes_and_the_driver_on_another_machine_learns_of_it(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beacon, "EVERY", 0.01)
    url = f"file://{tmp_path}/store"
    elsewhere = config.with_layer({"run": {"local_folder": str(tmp_path / "elsewhere")}}, "test")
    one, said = settled(tmp_path, elsewhere)
    with contextlib.closing(StoreDriver(tmp_path / "driver", url)) as driver:
        orders = pickle.loads(pickle.dumps(Orders(said.setup, url, driver.beacon)))
        assert one.begin(orders) is None
        one.make(task(tmp_path, "a.png", elsewhere))
        (answer,) = one.rest()
        assert isinstance(answer.made, Made)
        output = answer.made.record.output
        assert output and not driver.workspace.stands(output)
        driver.workspace.learn(answer.learned)
        assert driver.workspace.stands(output) and not (tmp_path / "driver" / "a.png").exists()
        there = listed(url)
        assert hashlib.sha256(there["a.png"]).hexdigest() == output.sha256
        assert [name.rpartition("/")[0] for name in sorted(there) if name != "a.png" and "driver" not in name] == [
            *(".tilehires", ".tilehires", ".tilehires/outputs", ".tilehires/records", "report/thumbs")
        ], "beacon, lock, note, record, preview"
        assert one.make(task(tmp_path, "a.png", elsewhere))[0].made.record.cached, "its own record"  # type: ignore[union-attr]
        driver.beacon.unlink()
        late = time.monotonic() + LONG
        while not isinstance(one.make(task(tmp_path, "a.png", elsewhere))[0].made, Interrupted):
            assert time.monotonic() < late
    one.end()
    again, said = settled(tmp_path, elsewhere)
    nowhere = Orders(said.setup, "nothing://bucket/folder", StoreBeacon("nothing://bucket/folder"))
    assert "nothing://bucket/folder" in str(again.begin(nowhere))


class StoreDriver:
    """A driver's half of a store, locked, and its beacon lit."""

    def __init__(self, half: Path, url: str) -> None:
        self._open = contextlib.ExitStack()
        self.workspace = Workspace(half, url=url)
        self._open.enter_context(self.workspace.locked())
        self.beacon = StoreBeacon(url)
        self.beacon.touch()
        self.close = self._open.close


def test_an_image_is_written_while_the_next_one_is_computed(
    tmp_path: Path,
    config: Config,
    run: Begun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = written_late(monkeypatch)
    one, _ = run()
    assert one.make(task(tmp_path, "a.png", config)) == ()
    begun = time.monotonic()
    (first,) = one.make(task(tmp_path, "b.png", config, 1))
    while not list((tmp_path / "out" / ".tilehires" / "records").iterdir())[1:]:
        time.sleep(0.01)
    time.sleep(0.5)
    (second,) = one.rest()
    assert isinstance(first.made, Made) and isinstance(second.made, Made)
    assert second.seconds < time.monotonic() - begun - 0.4, "an image's seconds are its own"
    assert [first.made.record.id, second.made.record.id] == ["a.png", "b.png"]
    assert first.stored and first.learned.hashes
    assert set(seen) == {threading.main_thread()}, "models stay in one thread"


@pytest.mark.parametrize("settings", [{}, {"overlap": False}], ids=["alone", "run.overlap = false"])
def test_one_by_one_nothing_is_behind_or_ahead(
    tmp_path: Path,
    config: Config,
    run: Begun,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    order = watched(monkeypatch)
    one, _ = run(**settings)
    tasks = [task(tmp_path, f"{name}.png", config, seed) for seed, name in enumerate("ab")]
    answers = [one.make(each, tasks[1].image.path, alone=not settings) for each in tasks]
    assert [[answer.image for answer in each] for each in answers] == [["a.png"], ["b.png"]]
    assert order == ["read a.png", "write a.png", "read b.png", "write b.png"]


def test_the_image_behind_is_settled_before_one_goes_alone(
    tmp_path: Path, config: Config, run: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = watched(monkeypatch)
    one, _ = run()
    assert one.make(task(tmp_path, "a.png", config)) == ()
    answers = one.make(task(tmp_path, "b.png", config, 1), alone=True)
    assert [answer.image for answer in answers] == ["a.png", "b.png"]
    assert order == ["read a.png", "write a.png", "read b.png", "write b.png"]


def test_the_next_file_is_decoded_meanwhile(
    tmp_path: Path, config: Config, run: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, real = watched(monkeypatch), PassStage.run

    def compute(stage: PassStage, *rest: Any) -> Any:
        late = time.monotonic() + LONG
        while "read b.png" not in order and time.monotonic() < late:
            time.sleep(0.01)
        order.append("compute")
        return real(stage, *rest)

    monkeypatch.setattr(PassStage, "run", compute)
    one, _ = run()
    first, second = task(tmp_path, "a.png", config), task(tmp_path, "b.png", config, 1)
    assert one.make(first, second.image.path) == ()
    assert [answer.image for answer in (*one.make(second), *one.rest())] == ["a.png", "b.png"]
    assert order[:3] == ["read a.png", "read b.png", "compute"] and order.count("read b.png") == 1


def test_what_fails_behind_is_told_of_its_own_image(
    tmp_path: Path, config: Config, run: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CheckStage.run

    def check(stage: CheckStage, image: Any, *rest: Any) -> Any:
        if image.pixels.shape[1] == 48:
            raise ZeroDivisionError("oh")
        return real(stage, image, *rest)

    monkeypatch.setattr(CheckStage, "run", check)
    one, _ = run()
    assert one.make(task(tmp_path, "a.png", config)) == ()
    (first,), (second,) = one.make(task(tmp_path, "b.png", config, 1)), one.rest()
    assert isinstance(first.made, ErrorRecord) and first.image == "a.png" and "ZeroDivisionError" in first.tracebacks[0]
    assert isinstance(second.made, Made) and second.image == "b.png" and not second.tracebacks


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read and written from now on, in order."""
    order: list[str] = []
    real_read, real_publish = InProcess.read, Workspace.publish

    def read(decoder: InProcess, path: Path, **named: Any) -> Any:
        picture = real_read(decoder, path, **named)
        order.append(f"read {path.name}")
        return picture

    def publish(workspace: Workspace, staged: Path, name: str) -> str:
        order.append(f"write {name}")
        return real_publish(workspace, staged, name)

    monkeypatch.setattr(InProcess, "read", read)
    monkeypatch.setattr(Workspace, "publish", publish)
    return order
