"""A second run over what is finished costs stats, not reads; a first over ten thousand images stays small."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.batches import Workplace, draw, outputs, workplace
from tilehires.batch import maker, runner
from tilehires.batch.discover import Discovery, Found
from tilehires.batch.runner import run
from tilehires.config import Config
from tilehires.errors import ExitCode
from tilehires.records import FileRecord, Record, StageRecord

OPENED: list[str] | None = None


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(_heard)  # there is no taking it back; it does nothing unless somebody listens


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that are opened inside, by whatever part of Python."""
    global OPENED
    OPENED = []
    try:
        yield OPENED
    finally:
        OPENED = None


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


@pytest.fixture
def config() -> Config:
    return Config.load().with_layer({"hires": {"denoise": 0, "upscaler": "Lanczos"}}, "test")


def test_a_second_run_opens_neither_images_nor_records(place: Workplace, config: Config) -> None:
    for seed in range(6):
        draw(place.input / f"{seed}.png", 8, 6, seed)
    (place.input / "3.txt").write_text("a prompt", encoding="utf-8")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    first, made = place.report(), outputs(place.output)
    with opened() as files:
        summary = run(config, place.input, place.output)
    assert (summary.done, summary.cached) == (6, 6)
    touched = [f for f in files if str(place.input) in f or "/records/" in f or "/cache/" in f or Path(f).name in made]
    assert not touched
    assert not [f for f in files if f.endswith(".safetensors")], "model hashes are remembered"
    second = place.report()
    for image in (*first["images"], *second["images"]):
        image["cached"] = None
        for stage in image["stages"]:
            stage["cached"] = None
    assert first["images"] == second["images"], "the report tells as much as before"


@pytest.mark.parametrize("what", ["input", "sidecar", "new sidecar", "output", "settings", "line", "settings line"])
def test_whatever_changes_is_seen(place: Workplace, config: Config, what: str) -> None:
    for seed in range(2):
        draw(place.input / f"{seed}.png", 8, 6, seed)
    (place.input / "1.txt").write_text("a prompt", encoding="utf-8")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    before = outputs(place.output)
    lines = place.output / ".tilehires" / "finished.jsonl"
    cached = 1
    match what:
        case "input":
            draw(place.input / "0.png", 8, 6, 7)
        case "sidecar":
            (place.input / "1.txt").write_text("a cat", encoding="utf-8")
        case "new sidecar":
            (place.input / "0.toml").write_text("[hires]\nscale = 3\n", encoding="utf-8")
        case "output":
            (place.output / "0.png").unlink()
        case "settings":
            config, cached = config.with_layer({"hires": {"scale": 1.5}}, "test"), 0
        case "line":
            lines.write_text(lines.read_text(encoding="utf-8").replace('["image"', '["imag'), encoding="utf-8")
            cached = 2
        case "settings line":
            lines.write_text(lines.read_text(encoding="utf-8").replace('["settings"', '["'), encoding="utf-8")
            cached = 2
    summary = run(config, place.input, place.output)
    assert summary.exit_code == ExitCode.OK, summary.lines()
    assert summary.cached == cached
    whole = place.root / "whole"
    assert run(config, place.input, whole).exit_code == ExitCode.OK
    assert outputs(place.output) == outputs(whole)
    changes = what in ("input", "new sidecar", "settings")  # a prompt is nothing to a pass without denoising
    assert what == "sidecar" or (outputs(place.output) != before) == changes


def test_ten_thousand_images_stay_small(place: Workplace, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stub stages: what a run keeps of each image, in memory and in the log, is small and the same for each."""
    draw(place.input / "a.png", 8, 6)
    count = 10_000
    found = tuple(Found(f"{n:05}.png", place.input / "a.png", f"{n:05}.png", ()) for n in range(count))
    monkeypatch.setattr(runner, "discovered", lambda *_: Discovery(place.input, found, ()))
    described = {f"hires.key{n}": {"value": n, "origin": "default"} for n in range(30)}

    def process(image: Found, *_: Any) -> Record:
        size = FileRecord(image.id, (8, 6), "0" * 64)
        settings = json.loads(json.dumps(described))
        stage = StageRecord("hires", "f" * 64, 0.1, False, {"tiles": []}, {"device": "cpu"})
        if int(image.id[:5]) % 100 == 0:
            raise ZeroDivisionError(image.id)
        return Record(image.id, size, size, "done", seed=1, settings=settings, stages=(stage,))

    monkeypatch.setattr(maker, "prepare", lambda image, *_: Kept(image))
    monkeypatch.setattr(maker, "space_of", lambda job: None)
    monkeypatch.setattr(maker.Maker, "context_for", lambda self, job: self.context)
    monkeypatch.setattr(maker, "begin", lambda job, *_, **__: process(job.image))
    monkeypatch.setattr(runner, "report_of", lambda *_, **__: "")
    monkeypatch.setattr("tilehires.files.os.fsync", lambda handle: None)
    before = resident()
    summary = run(config, place.input, place.output)
    held = resident() - before
    assert (summary.done, summary.failed) == (9_900, 100)
    assert held / count < 8_000, f"{held / count:.0f} bytes are kept of each image"
    (log,) = (place.output / ".tilehires" / "runs").iterdir()
    assert log.stat().st_size / count < 300


def resident() -> int:
    """Bytes of memory this process has now; 0 where the system doesn't tell."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


class Kept:
    """A job with nothing to do."""

    stages = ()

    def __init__(self, image: Found) -> None:
        self.image = image
