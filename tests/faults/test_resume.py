"""A run that is killed goes on with the same command, and ends with the same bytes as one that wasn't."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tests.batches import Workplace, draw, leftovers, outputs
from tilehires import upscalers
from tilehires.batch.runner import run
from tilehires.cli import main
from tilehires.config import Config
from tilehires.errors import ExitCode
from tilehires.stages.redenoise import PassStage

ROOT = Path(__file__).parents[2]
REAL = ("--scale", "4", "--steps", "2", "--denoise", "0.3")
PATIENCE = 400  # seconds: on a machine that is busy with other things, importing torch alone takes a minute


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run of the real thing makes of the picture that `place` has."""
    folder = tmp_path_factory.mktemp("reference")
    draw(folder / "in" / "photo.png", 64, 64)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "in"), "-o", str(folder / "out"), "-q", *REAL])
    assert ended.value.code == ExitCode.OK
    return outputs(folder / "out")


def started(place: Workplace) -> subprocess.Popen[str]:
    """The program in a process of its own, on the folders of `place`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tilehires", "run", str(place.input), "-o", str(place.output), *REAL],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A background job of a shell inherits an ignored SIGINT; the program must see it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str], what: int, when: Callable[[], bool]) -> tuple[int, str]:
    """The exit code and the words of a process that gets a signal as soon as `when` says so."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not when():
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"nothing to interrupt within {PATIENCE} s; it said: {process.communicate()[0]}")
        time.sleep(0.001)
    if process.poll() is not None:
        pytest.fail(f"it ended by itself before the signal, with {process.returncode}: {process.communicate()[0]}")
    process.send_signal(what)
    said = process.communicate(timeout=PATIENCE)[0]
    return process.returncode, said


def stored(output: Path) -> set[str]:
    """The stages whose records are in the cache."""
    return {
        json.loads(path.read_text(encoding="utf-8"))["stage"]
        for path in (output / ".tilehires" / "cache").glob("*/*.json")
    }


def test_killed_after_hires_it_goes_on_to_the_same_bytes(place: Workplace, reference: dict[str, bytes]) -> None:
    draw(place.input / "photo.png", 64, 64)
    code, _ = ended(started(place), signal.SIGKILL, lambda: "hires" in stored(place.output))
    assert code == -signal.SIGKILL
    assert outputs(place.output) == {}, "a file stands under its final name before it is finished"
    with started(place) as again:
        said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == ExitCode.OK, said
    assert outputs(place.output) == reference
    assert place.cached_stages("photo.png")["hires"], "the finished stage was done again"
    assert not place.cached_stages("photo.png")["tiled.1"]
    assert not leftovers(place.output)


def test_killed_at_any_time_it_goes_on_to_the_same_bytes(place: Workplace, reference: dict[str, bytes]) -> None:
    draw(place.input / "photo.png", 64, 64)
    seed = random.randrange(10**6)
    delay = random.Random(seed).uniform(0.0, 2.0)
    begun: list[float] = []

    def some_time_after_it_took_the_lock() -> bool:
        if not begun and (place.output / ".tilehires" / "lock").exists():
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() > begun[0] + delay or bool(outputs(place.output))

    code, _ = ended(started(place), signal.SIGKILL, some_time_after_it_took_the_lock)
    assert code == -signal.SIGKILL
    assert outputs(place.output) in ({}, reference), f"half a file after {delay:.3f} s"
    assert place.run(*REAL).code == ExitCode.OK, f"killed after {delay:.3f} s"
    assert outputs(place.output) == reference, f"other bytes, killed after {delay:.3f} s"
    assert not leftovers(place.output)


def test_interrupted_it_says_so_and_keeps_what_is_done(place: Workplace, reference: dict[str, bytes]) -> None:
    draw(place.input / "photo.png", 64, 64)
    code, said = ended(started(place), signal.SIGINT, lambda: "hires" in stored(place.output))
    assert code == ExitCode.INTERRUPTED, said
    assert "same command goes on" in said and "Traceback" not in said
    assert place.report()["summary"]["done"] == 0, "the report of an interrupted run is there, and true"
    assert not leftovers(place.output)
    assert place.run(*REAL).code == ExitCode.OK
    assert outputs(place.output) == reference
    assert place.cached_stages("photo.png")["hires"]


# Every place where a process can die, on runs without a model. A fork costs no imports.


class Counter:
    """Ends this very process, as a kill does, at the n-th event; without n it counts them."""

    def __init__(self, end_at: int | None = None) -> None:
        self.end_at, self.seen = end_at, 0

    def event(self) -> None:
        if self.seen == self.end_at:
            os._exit(9)
        self.seen += 1


@contextmanager
def counted(counter: Counter) -> Iterator[None]:
    """Events are: before and after each rename, deletion and flush to disk, and at the start of each stage."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "fsync", "unlink"):
            patch.setattr(os, name, _around(counter, getattr(os, name), real=name != "fsync"))
        patch.setattr(PassStage, "run", _around(counter, PassStage.run))
        yield


def _around(counter: Counter, call: Callable[..., Any], *, real: bool = True) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        counter.event()
        answer = call(*arguments, **named) if real else None
        counter.event()
        return answer

    return wrapped


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit code of `work` in a fork of this process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings of a run without a model, to 4x, which is two steps."""
    known = entry_points(group=upscalers.GROUP)
    monkeypatch.setattr(upscalers, "entry_points", lambda group: known)  # half of such a run's time
    hires = {"scale": 4, "denoise": 0, "upscaler": "Lanczos"}
    run = {"decode_isolated": False, "overlap": False}  # in one thread the n-th event is the same one every time
    return Config.load().with_layer({"run": run, "hires": hires}, "test")


def test_killed_at_every_place_it_goes_on_to_the_same_bytes(place: Workplace, quick: Config) -> None:
    draw(place.input / "sub" / "a.png", 8, 6)
    whole = Counter()
    with counted(whole):
        assert run(quick, place.input, place.root / "whole").exit_code == ExitCode.OK
    reference = outputs(place.root / "whole")
    assert len(reference) == 1 and whole.seen > 60, f"only {whole.seen} events: the patches no longer see the writing"
    for number in range(whole.seen):
        output = place.root / str(number)

        def die(number: int = number, output: Path = output) -> None:
            with counted(Counter(number)):
                run(quick, place.input, output)

        where = f"killed at event {number} of {whole.seen}"
        assert in_a_fork(die) == 9, f"the process was to be {where}, and was not"
        found = outputs(output)
        assert all(reference.get(name) == data for name, data in found.items()), f"half a file, {where}: {set(found)}"
        summary = run(quick, place.input, output)
        assert summary.exit_code == ExitCode.OK, f"{summary.lines()}, {where}"
        assert outputs(output) == reference, f"other bytes, {where}"
        assert not leftovers(output), f"{leftovers(output)}, {where}"


def test_killed_again_and_again_it_still_ends(place: Workplace, quick: Config) -> None:
    for number in range(4):
        draw(place.input / f"{number}.png", 6, 6, seed=number)
    assert run(quick, place.input, place.root / "whole").exit_code == ExitCode.OK
    dice, kills, code = random.Random(7), 0, 9
    while code == 9:

        def die(steps: int = dice.randrange(10, 60)) -> None:
            with counted(Counter(steps)):
                run(quick, place.input, place.output)

        code = in_a_fork(die)
        kills += code == 9
        assert kills < 60, "every run is killed, and none gets on"
    assert code == 0 and kills > 2
    assert outputs(place.output) == outputs(place.root / "whole")
    assert not leftovers(place.output)


def test_stages_that_are_done_are_not_done_again(place: Workplace, quick: Config) -> None:
    draw(place.input / "a.png", 8, 6)
    deep = quick.with_layer({"hires": {"scale": 8}}, "test")

    def die() -> None:
        begun: list[str] = []
        real = PassStage.run

        def until_the_third(stage: PassStage, *rest: Any) -> Any:
            begun.append(stage.name)
            if len(begun) == 3:
                os._exit(9)
            return real(stage, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PassStage, "run", until_the_third)
            run(deep, place.input, place.output)

    assert in_a_fork(die) == 9
    assert stored(place.output) == {"hires", "tiled.1"}
    assert run(deep, place.input, place.output).exit_code == ExitCode.OK
    assert place.cached_stages("a.png") == {
        "hires": True,
        "tiled.1": True,
        "tiled.2": False,
        "check": False,
        "write": False,
    }
