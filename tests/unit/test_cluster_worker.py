"""What a worker answers where it can't do the run, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.batches import draw
from tilehires.batch import worker
from tilehires.batch.discover import Found
from tilehires.batch.maker import Made, Task
from tilehires.batch.worker import Orders, Settled, Worker
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.errors import Interrupted, MissingError
from tilehires.records import ErrorRecord


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


def test_it_makes_images_while_the_beacon_stands_and_until_the_time_is_up(tmp_path: Path, config: Config) -> None:
    good, bad = draw(tmp_path / "in" / "a.png"), tmp_path / "in" / "b.png"
    bad.write_bytes(b"nothing")
    tasks = [Task(Found(path.name, path, path.name, ()), config) for path in (good, bad)]
    one, said = settled(tmp_path, config)
    with (driver := Workspace(tmp_path / "out")).locked():
        beacon = driver.staging / "going"
        beacon.touch()
        orders = Orders(said.setup, driver.output, beacon)
        assert one.begin(orders) is None
        answers = [one.make(task) for task in tasks]
        assert isinstance(answers[0].made, Made) and answers[0].hashes and answers[0].stored
        assert isinstance(answers[1].made, ErrorRecord) and answers[1].made.type == "ImageError"
        assert not driver.hashes.learned() and not (driver.root / "hashes.jsonl").exists()
        assert one.begin(Orders(said.setup, driver.output, beacon, frozenset({"hires"}), until=1.0)) is None
        assert isinstance(one.make(tasks[0]).made, Interrupted), "no stage begins after that time"
        assert one.begin(orders) is None
        beacon.unlink()
        assert isinstance(one.make(tasks[0]).made, Interrupted)
        one.end()
        assert not list(driver.staging.iterdir())
