"""`tilehires run --watch`: what comes is taken when it stands still, whatever becomes of the watcher, until it is ended."""

from __future__ import annotations

import io
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from PIL import Image

from tests.batches import FAST, Workplace, draw, drawing, outputs
from tilehires.batch import watch
from tilehires.errors import ExitCode

SETTLE = ("--watch", "--set", "run.watch_settle=0.3", "--set", "run.decode_isolated=false", *FAST)
LONGER = ("--set", "run.watch_settle=1.5")
"""Where a file grows: a writer that waits for the processor must not look like one that is through."""
PATIENCE = 60.0


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """`work` in another thread, which has ended when the block has."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
            press_ctrl_c()  # or the run would wait for ever

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
    assert not thread.is_alive() and not failed, failed


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def encoded(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(drawing(24, 16, seed)).save(stream, "png")
    return stream.getvalue()


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The program sets its own."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def test_what_comes_is_done_when_it_stands_still_and_ctrl_c_ends_it(place: Workplace) -> None:
    body, grown = encoded(1), place.input / "sub" / "grown.png"

    def work() -> None:
        wait_for(lambda: "first.png" in outputs(place.output))
        grown.parent.mkdir()
        with grown.open("wb") as stream:
            for start in range(0, len(body), len(body) // 8):
                stream.write(body[start : start + len(body) // 8])
                stream.flush()
                assert "sub/grown.png" not in outputs(place.output), "taken while it grew"
                time.sleep(0.25)
        wait_for(lambda: "sub/grown.png" in place.images())
        press_ctrl_c()

    draw(place.input / "first.png")
    with meanwhile(work):
        ended = place.run(*SETTLE, *LONGER, "-v")
    assert ended.code == ExitCode.INTERRUPTED, ended.out + ended.err
    assert "Watching" in ended.err and "failed" not in ended.err and "same command goes on" in ended.out
    assert place.statuses() == {"first.png": "done", "sub/grown.png": "done"}
    grown.with_name("whole.png").write_bytes(body)
    assert place.run(*FAST, source=grown.with_name("whole.png"), output=place.root / "whole").code == ExitCode.OK
    assert outputs(place.output)["sub/grown.png"] == outputs(place.root / "whole")["whole.png"]


def test_an_empty_folder_a_broken_file_that_is_replaced_and_a_limit(place: Workplace) -> None:
    """A broken file fails once, not at each look, and is done when it changes."""

    def work() -> None:
        wait_for((place.output / ".tilehires" / "lock").exists)
        (place.input / "a.png").write_bytes(encoded(1)[:200])
        wait_for(lambda: (place.output / "report" / "report.json").exists() and bool(place.images()))
        time.sleep(1.0)
        assert place.statuses() == {"a.png": "failed"}
        (place.input / "a.png").write_bytes(encoded(1))
        (place.input / "a.txt").write_text("a fox", encoding="utf-8")
        wait_for(lambda: "a.png" in outputs(place.output))
        draw(place.input / "b.png", seed=2)

    with meanwhile(work):
        ended = place.run(*SETTLE, "--limit", "2")
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert ended.err.count("is broken") == 1, ended.err
    assert place.statuses() == {"a.png": "done", "b.png": "done"}
    assert place.images()["a.png"]["settings"]["generate.prompt"]["value"] == "a fox"


def test_an_image_that_is_made_again_counts_once(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def arrivals(self: watch.Watch) -> Iterator[Any]:
        for seed, names in enumerate((("a.png",), ("a.png", "b.png"))):
            for name in names:
                draw(place.input / name, seed=seed)
            yield (found := self._look()), found.found
        raise AssertionError("two are done, and that was the limit")

    monkeypatch.setattr(watch.Watch, "arrivals", arrivals)
    monkeypatch.setattr(watch.Watch, "stands", lambda *_: True)
    ended = place.run(*SETTLE, "--limit", "2")
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert set(outputs(place.output)) == {"a.png", "b.png"}


def test_a_watcher_that_dies_or_sees_nothing_costs_no_image(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.5)

    def dies(*_: Any, **__: Any) -> Iterator[Any]:
        yield set()
        raise OSError("OS file watch limit reached")

    def blind(*_: Any, **__: Any) -> Iterator[Any]:
        while True:
            time.sleep(0.1)
            yield set()

    def add(name: str) -> Callable[[], None]:
        def work() -> None:
            wait_for((place.output / ".tilehires" / "lock").exists)
            draw(place.input / name)

        return work

    for number, watcher in enumerate((dies, blind)):
        monkeypatch.setattr(watchfiles, "watch", watcher)
        with meanwhile(add(f"{number}.png")):
            ended = place.run(*SETTLE, "--limit", str(number + 1))
        assert ended.code == ExitCode.OK, ended.out + ended.err
        assert ("watch limit reached" in ended.err) == (watcher is dies)
    assert set(outputs(place.output)) == {"0.png", "1.png"}


@pytest.mark.parametrize("growing", [False, True])
def test_until_ends_the_watch(place: Workplace, monkeypatch: pytest.MonkeyPatch, growing: bool) -> None:
    """Everything is done: 0, as of a run that got through; something is still coming: 130, as of one that didn't."""
    late: list[bool] = []

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now() + timedelta(days=2 if late else 0)

    def work() -> None:
        wait_for((place.output / "report" / "report.json").exists)
        if not growing:
            late.append(True)
            return
        with (place.input / "b.png").open("wb") as stream:
            for number in range(20):
                stream.write(bytes(10))
                stream.flush()
                time.sleep(0.1)
                if number == 10:
                    late.append(True)

    draw(place.input / "a.png")
    monkeypatch.setattr("tilehires.batch.options.datetime", Clock)
    with meanwhile(work):
        ended = place.run(*SETTLE, *LONGER, "--until", "07:00")
    assert ended.code == (ExitCode.INTERRUPTED if growing else ExitCode.OK), ended.out + ended.err
    assert set(outputs(place.output)) == {"a.png"}


def test_clocks_that_jump_and_files_from_the_future(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, itertools.cycle((0, 1e9, -1e9, 86400, -86400))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + next(jumps)) * 1e9))

    def work() -> None:
        wait_for((place.output / ".tilehires" / "lock").exists)
        for number, dated in enumerate((4e9, 0)):
            os.utime(draw(place.input / f"{number}.png"), (dated, dated))

    with meanwhile(work):
        ended = place.run(*SETTLE, "--limit", "2")
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert set(outputs(place.output)) == {"0.png", "1.png"}


def test_a_folder_that_goes_and_comes_back(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.3)
    away = place.root / "away"

    def work() -> None:
        wait_for(lambda: "a.png" in outputs(place.output))
        place.input.rename(away)
        time.sleep(1.0)
        draw(away / "b.png", seed=2)
        away.rename(place.input)

    draw(place.input / "a.png")
    with meanwhile(work):
        ended = place.run(*SETTLE, "--limit", "2")
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert ended.err.count("looked for again") == 1 and set(outputs(place.output)) == {"a.png", "b.png"}


def test_what_cannot_be_watched(place: Workplace) -> None:
    draw(place.input / "a.png")
    assert place.run("--watch", *FAST, source=place.input / "a.png").code == ExitCode.USAGE
    assert place.run("--watch", *FAST, source=place.root / "nowhere").code == ExitCode.USAGE
    assert not outputs(place.output)


def test_what_changes_while_it_waits_its_turn_comes_again(tmp_path: Path) -> None:
    from tilehires.batch.discover import discover

    folder, said = tmp_path / "in", []
    draw(folder / "a.png")
    one = watch.Watch(folder, lambda: discover(folder, tmp_path / "out", suffix=".png"), 0.1, said.append)
    arrivals = one.arrivals()
    for turn in range(2):
        image = next(images[0] for _, images in arrivals if images)
        assert one.stands(image)
        if not turn:
            draw(folder / "a.png", 40, 30)
            assert not one.stands(image)
    assert len(said) == 1 and "Watching" in said[0]
