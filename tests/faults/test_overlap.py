"""The next image is decoded, the last one checked and written, while one is computed; nothing else differs for it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.batches import Workplace, draw, outputs
from tests.overlap import LONG, written_late
from tilehires.batch.behind import Behind
from tilehires.batch.runner import run
from tilehires.config import Config
from tilehires.errors import ExitCode, ImageError
from tilehires.images import InProcess, Isolated
from tilehires.images.ahead import Ahead
from tilehires.stages.check import CheckStage
from tilehires.stages.redenoise import PassStage


@pytest.fixture
def quick() -> Config:
    return Config.load().with_layer({"hires": {"denoise": 0, "upscaler": "Lanczos"}}, "test")


def alone(config: Config) -> Config:
    return config.with_layer({"run": {"overlap": False}}, "test")


def test_an_image_is_written_while_the_next_one_is_computed(
    place: Workplace, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    assert run(alone(quick), place.input, place.root / "alone").exit_code == ExitCode.OK
    seen = written_late(monkeypatch)
    summary = run(quick, place.input, place.output)
    assert summary.exit_code == ExitCode.OK and [record.id for record in summary.records] == ["a.png", "b.png"]
    assert set(seen) == {threading.main_thread()}, "models stay in one thread"
    assert outputs(place.output) == outputs(place.root / "alone")


def test_an_images_seconds_are_its_own(place: Workplace, quick: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    real_clock, real_run, real_begin, late = time.monotonic, PassStage.run, Behind.begin, 0
    behind: list[Behind] = []

    def begin(self: Behind, *given: Any) -> None:
        real_begin(self, *given)
        behind.append(self)

    def slow(stage: PassStage, *rest: Any) -> Any:
        nonlocal late
        if behind:
            behind[0].result()
            late = 1000
        return real_run(stage, *rest)

    monkeypatch.setattr(time, "monotonic", lambda: real_clock() + late)
    monkeypatch.setattr(Behind, "begin", begin)
    monkeypatch.setattr(PassStage, "run", slow)
    assert run(quick, place.input, place.output).exit_code == 0
    [log] = (place.output / ".tilehires" / "runs").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    took = {event["id"]: event["seconds"] for event in events if event["event"] == "image"}
    assert took["a.png"] < 1000 <= took["b.png"]


@pytest.mark.parametrize("error", [ImageError("It broke."), ZeroDivisionError("oh"), MemoryError()])
def test_what_fails_behind_is_its_own_image(
    place: Workplace, quick: Config, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for seed, name in enumerate("abc"):
        draw(place.input / f"{name}.png", 8 + seed, 8, seed=seed)
    real = CheckStage.run

    def check(stage: CheckStage, image: Any, *rest: Any) -> Any:
        if image.pixels.shape[1] == 18:
            raise error
        return real(stage, image, *rest)

    monkeypatch.setattr(CheckStage, "run", check)
    summary = run(quick, place.input, place.output)
    assert summary.exit_code == ExitCode.IMAGES_FAILED
    assert [(record.id, record.status) for record in summary.records] == [
        ("a.png", "done"),
        ("b.png", "failed"),
        ("c.png", "done"),
    ]
    monkeypatch.undo()
    again = run(quick, place.input, place.output)
    assert again.exit_code == ExitCode.OK and again.cached == 2


class Reads(InProcess):
    """Counts, and tells when something was read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.read_one = threading.Event()

    def read(self, path: Path, **named: Any) -> Any:
        picture = super().read(path, **named)
        self.names.append(path.name)
        self.read_one.set()
        return picture


def picture(path: Path, level: int) -> Path:
    Image.fromarray(np.full((5, 6, 3), level, np.uint8)).save(path)
    return path


def test_the_next_file_is_read_once_and_a_changed_one_again(tmp_path: Path) -> None:
    first, second, third = (picture(tmp_path / f"{n}.png", n) for n in (1, 2, 3))
    reads = Reads()
    with Ahead(reads) as ahead:
        ahead.then(second)
        assert round(float(ahead.read(first).pixels.mean()) * 255) == 1
        ahead.then(third)
        assert round(float(ahead.read(second).pixels.mean()) * 255) == 2
        assert reads.names == ["1.png", "2.png"] or reads.names == ["1.png", "2.png", "3.png"]
        for _ in range(LONG * 10):
            if len(reads.names) == 3:
                break
            threading.Event().wait(0.1)
        picture(third, 200)
        assert round(float(ahead.read(third).pixels.mean()) * 255) == 200
        assert reads.names == ["1.png", "2.png", "3.png", "3.png"]


def test_a_file_that_breaks_ahead_fails_at_its_own_turn(tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "good.png", 1), tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with Ahead(Isolated()) as ahead:
        ahead.then(bad)
        ahead.read(good)
        with pytest.raises(ImageError):
            ahead.read(bad)
        ahead.then(tmp_path / "gone.png")
        ahead.read(good)


def test_ctrl_c_while_the_last_image_is_waited_for_keeps_it(
    place: Workplace, quick: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(place.input / "a.png")
    real, pressed = Behind.result, []

    def result(behind: Behind) -> Any:
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return real(behind)

    monkeypatch.setattr(Behind, "result", result)
    summary = run(quick, place.input, place.output)
    assert summary.interrupted and [record.status for record in summary.records] == ["done"] and not summary.left
