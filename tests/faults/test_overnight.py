"""What a night may bring beside crashes: an image that hangs, a clock that jumps, inputs that go, a disk that fills."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.batches import FAST, Workplace, draw, leftovers, outputs
from tilehires.batch import log, maker
from tilehires.batch.patience import time_limit
from tilehires.batch.space import MB, Space, night
from tilehires.cli import main
from tilehires.errors import ExitCode, ImageError, MissingError
from tilehires.images import decoder
from tilehires.stages.redenoise import PassStage


def three(place: Workplace) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        draw(place.input / name, 24, 13 if name == "b.png" else 16, seed)


def on_b(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Something happens when b.png is at its first stage."""
    real = PassStage.run

    def run(stage: PassStage, image: Any, *rest: Any) -> Any:
        if image.pixels.shape[0] == 13:
            what()
        return real(stage, image, *rest)

    monkeypatch.setattr(PassStage, "run", run)


# A stage that hangs


@pytest.mark.parametrize("hang", [lambda: time.sleep(60), lambda: threading.Event().wait(60)], ids=["sleep", "lock"])
def test_an_image_that_hangs_is_given_up_and_the_others_are_done(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, hang: Callable[[], object]
) -> None:
    three(place)
    with monkeypatch.context() as patch:
        on_b(patch, hang)
        began = time.monotonic()
        ended = place.run(*FAST, "--set", "run.image_time_limit=2")
    assert ended.code == ExitCode.IMAGES_FAILED, ended.out + ended.err
    assert time.monotonic() - began < 40
    assert place.statuses() == {"a.png": "done", "b.png": "failed", "c.png": "done"}
    error = place.images()["b.png"]["error"]
    assert error["type"] == "ImageError" and "run.image_time_limit" in error["message"] and error["hint"]
    assert not leftovers(place.output)
    assert place.run(*FAST, "--set", "run.image_time_limit=300").code == ExitCode.OK


def test_a_library_that_makes_another_error_of_the_limit_does_not_stop_the_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place)

    def hang() -> None:
        try:
            time.sleep(60)
        except BaseException as error:
            raise MissingError("the model can't be loaded") from error

    on_b(monkeypatch, hang)
    ended = place.run(*FAST, "--set", "run.image_time_limit=2", "--set", "run.decode_isolated=false")
    assert ended.code == ExitCode.IMAGES_FAILED, ended.out + ended.err
    assert "run.image_time_limit" in place.images()["b.png"]["error"]["message"]


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_the_limit_holds_in_other_threads_too() -> None:
    said: list[object] = []

    def work() -> None:
        try:
            with time_limit(0.2, "a.png"):
                spin(30)
        except ImageError as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and "a.png" in str(said[0])


def test_the_limit_is_gone_when_the_work_is_done() -> None:
    with time_limit(0.05, "a.png"):
        pass
    spin(0.15)
    with time_limit(0, "b.png"):
        spin(0.01)


# Processes and threads beside the run


def test_a_decoding_process_that_dies_between_two_images_costs_none(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place)
    begun: list[Any] = []
    real = decoder._begin

    def begin() -> Any:
        begun.append(real())
        return begun[-1]

    def kill() -> None:
        begun[-1].kill()
        begun[-1].wait()

    monkeypatch.setattr(decoder, "_begin", begin)
    on_b(monkeypatch, kill)
    ended = place.run(*FAST)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert len(begun) == 2 and place.statuses() == {"a.png": "done", "b.png": "done", "c.png": "done"}


# Clocks


def test_a_clock_that_jumps_changes_nothing(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    three(place)
    assert place.run(*FAST, output=place.root / "whole").code == ExitCode.OK
    real, jumps = time.time, iter([0, 1e9, -1e9, 86400, -86400] * 1000)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int((real() + next(jumps)) * 1e9))
    assert place.run(*FAST).code == ExitCode.OK
    for image in place.images().values():
        assert all(0 <= stage["seconds"] < 100 for stage in image["stages"])
    assert place.run(*FAST).code == ExitCode.OK
    assert place.report()["summary"]["cached"] == 3
    assert outputs(place.output) == outputs(place.root / "whole")


def test_files_dated_in_the_future_or_never_are_inputs_like_others(place: Workplace) -> None:
    three(place)
    os.utime(place.input / "a.png", (4e9, 4e9))
    os.utime(place.input / "b.png", (0, 0))
    assert place.run(*FAST).code == ExitCode.OK
    assert place.run(*FAST).code == ExitCode.OK
    assert place.report()["summary"]["cached"] == 3


# Inputs


def test_inputs_that_go_or_change_midway_cost_themselves_alone(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place)
    draw(place.input / "d.png", 20, 20, 3)

    def meddle() -> None:
        (place.input / "c.png").unlink()
        draw(place.input / "d.png", 30, 20, 4)
        (place.input / "b.png").unlink()  # the one at work is in memory already

    with monkeypatch.context() as patch:
        on_b(patch, meddle)
        ended = place.run(*FAST)
    assert ended.code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"a.png": "done", "b.png": "done", "c.png": "failed", "d.png": "done"}
    assert place.images()["d.png"]["input"]["size"] == [30, 20], "the file as it is when its turn comes"
    error = place.images()["c.png"]["error"]
    assert error["type"] == "ImageError" and error["hint"]


def test_a_folder_that_goes_midway_is_said_of_each_image(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    three(place)
    on_b(monkeypatch, lambda: place.input.rename(place.root / "elsewhere"))
    assert place.run(*FAST).code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"a.png": "done", "b.png": "done", "c.png": "failed"}


# Disks


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fills_or_turns_read_only_midway_stops_the_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    three(place)
    assert place.run(*FAST, output=place.root / "whole").code == ExitCode.OK
    with monkeypatch.context() as patch:

        def refuse() -> None:
            def fails(*_: Any, **__: Any) -> Any:
                raise OSError(kind, os.strerror(kind))

            patch.setattr(os, "fsync", fails)
            patch.setattr(os, "replace", fails)

        on_b(patch, refuse)
        ended = place.run(*FAST)
    assert ended.code == ExitCode.USAGE, ended.out + ended.err
    assert "hint: " in ended.err and "Traceback" not in ended.err
    if kind == errno.ENOSPC:
        # Whichever met it first: a.png is written while b.png is computed.
        assert ".png needs up to 1 MB of disk, and " in ended.err and "tilehires plan" in ended.err
    assert set(outputs(place.output)) <= {"a.png"}
    assert place.run(*FAST).code == ExitCode.OK
    assert outputs(place.output) == outputs(place.root / "whole") and not leftovers(place.output)


def test_plan_predicts_the_disk_that_a_run_takes(place: Workplace) -> None:
    for seed in range(3):
        draw(place.input / f"{seed}.png", 200, 150, seed)
    said = place.command("plan", place.input, "-o", place.output, "--scale", "4", *FAST)
    assert said.code == 0
    predicted = int(said.out.split("the run needs up to ")[1].split(" MB")[0]) * MB
    assert place.run("--scale", "4", *FAST).code == ExitCode.OK
    made = [*(place.output / ".tilehires" / "cache").rglob("*.npy"), *place.output.glob("*.png")]
    taken = sum(path.stat().st_size for path in made)
    assert taken <= predicted < 3 * taken, f"{predicted} predicted, {taken} taken"


def test_a_night_is_bounded_by_the_cache_limit() -> None:
    images = [Space(cache=100, file=10)] * 50
    assert night(images, 10**9) == 50 * 110
    assert night(images, 1000) == 1000 + 110 + 50 * 10


# Logs


def failing(place: Workplace, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], Exception]) -> list[Any]:
    three(place)

    def fails(job: Any, *_: Any, **__: Any) -> Any:
        raise error(job.id)

    monkeypatch.setattr(maker, "begin", fails)
    assert place.run(*FAST).code == ExitCode.IMAGES_FAILED
    (path,) = (place.output / ".tilehires" / "runs").iterdir()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_traceback_is_logged_once(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    events = failing(place, monkeypatch, lambda name: ZeroDivisionError(f"in {name}"))
    assert sum("fails" in event.get("text", "") for event in events) == 1
    assert [event["id"] for event in events if event.get("same_as") == "a.png"] == ["b.png", "c.png"]


def test_old_logs_go(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"2020010{number // 10}T00000{number % 10}.jsonl").touch()
    log.RunLog(tmp_path).close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == log.KEPT and left[0] == "20200101T000001.jsonl"


# Endings that were asked for


def test_until_finishes_the_stage_at_work_and_the_next_run_goes_on(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(place)
    assert place.run(*FAST, "--scale", "4", output=place.root / "whole").code == ExitCode.OK
    late: list[bool] = []

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now() + timedelta(days=2 if late else 0)

    with monkeypatch.context() as patch:
        patch.setattr("tilehires.batch.options.datetime", Clock)
        on_b(patch, lambda: late.append(True))
        ended = place.run(*FAST, "--scale", "4", "--until", "07:00")
    assert ended.code == ExitCode.INTERRUPTED, ended.out + ended.err
    assert set(outputs(place.output)) == {"a.png"} and "same command goes on" in ended.out
    assert "It ends by " in ended.err and ", 07:00." in ended.err, (
        "whoever types it at 07:05 means today, and should see"
    )
    assert place.run(*FAST, "--scale", "4").code == ExitCode.OK
    assert place.cached_stages("b.png")["hires"] and not place.cached_stages("b.png")["tiled.1"]
    assert outputs(place.output) == outputs(place.root / "whole")


def test_until_takes_a_time_of_day(place: Workplace) -> None:
    three(place)
    assert place.run(*FAST, "--until", "25:00").code == ExitCode.USAGE
    assert not place.output.exists()


@pytest.mark.parametrize("error", [None, RuntimeError("import"), MissingError("the model can't be loaded")])
def test_a_library_that_swallows_ctrl_c_or_makes_another_error_of_it(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    three(place)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def press() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            if error:
                raise error from None

    try:
        with monkeypatch.context() as patch:
            on_b(patch, press)
            ended = place.run(*FAST, "--set", "run.decode_isolated=false")
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.code == ExitCode.INTERRUPTED, ended.out + ended.err
    assert "same command goes on" in ended.out
    # Where nothing came of the swallowed one, b.png's pixels were all there: only its checks and its file were left.
    assert set(place.images()) == ({"a.png", "b.png"} if error is None else {"a.png"})


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(place: Workplace, first: signal.Signals) -> None:
    three(place)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:

            def busy(*_: Any) -> None:
                for word in (b"1", b"2"):
                    with contextlib.suppress(KeyboardInterrupt):
                        os.write(told, word)
                        time.sleep(60)

            PassStage.run = busy  # pyright: ignore[reportAttributeAccessIssue]
            main(["run", str(place.input), "-o", str(place.output), *FAST])
        finally:
            os._exit(99)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    os.kill(child, first)
    assert os.read(ready, 1) == b"2"
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ExitCode.INTERRUPTED
