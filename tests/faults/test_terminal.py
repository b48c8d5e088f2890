"""A terminal that goes, a pipe that is closed, signals that come early: what a run says and hears must not cost it images."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.batches import FAST, Workplace, draw
from tests.faults.test_on_finish import kept
from tilehires.batch import runner
from tilehires.batch.maker import Maker, Task
from tilehires.cli import main
from tilehires.errors import ExitCode

QUICK = (*FAST, "--set", "run.decode_isolated=false", "-v")


def in_a_child(place: Workplace, prepare: Callable[[], Any]) -> int:
    """The exit code of a run in a process of its own, whose streams are real ones. `prepare` is called there first."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            prepare()
            main(["run", str(place.input), "-o", str(place.output), *QUICK])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def real_streams(*descriptors: int) -> None:
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def broken_pipe() -> None:
    """As `2>&1 | head`, once head has gone."""
    gone, pipe = os.pipe()
    os.close(gone)
    real_streams(pipe, pipe)


def full_disk() -> None:
    """As a log file on a disk that is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    real_streams(full, full)


def closed() -> None:
    """As `>&- 2>&-`. A file that the run opens must not become its standard error."""
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # pyright: ignore[reportAttributeAccessIssue]
    os.closerange(0, 3)
    before = runner.report_of

    def report(*words: Any, **named: Any) -> Any:
        assert all(os.path.samestat(os.fstat(number), os.stat(os.devnull)) for number in range(3))  # noqa: PTH116
        return before(*words, **named)

    runner.report_of = report


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize("how", [broken_pipe, full_disk, closed])
def test_what_cannot_be_said_costs_no_image(place: Workplace, how: Callable[[], None]) -> None:
    (place.input / "a.png").write_bytes(b"no image")
    draw(place.input / "b.png")
    assert in_a_child(place, how) == ExitCode.IMAGES_FAILED
    assert (place.output / "b.png").is_file()
    assert kept(place.output / "report" / "summary.json")["exit_code"] == ExitCode.IMAGES_FAILED


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_the_run_in_order_unless_it_is_ignored(
    place: Workplace, number: signal.Signals, ignored: bool
) -> None:
    draw(place.input / "a.png")

    def hang_up() -> None:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        before = runner.Maker.begin

        def begin(self: Maker, task: Task) -> Any:
            os.kill(os.getpid(), number)
            return before(self, task)

        runner.Maker.begin = begin
        broken_pipe()

    assert in_a_child(place, hang_up) == (ExitCode.OK if ignored else ExitCode.INTERRUPTED)
    assert kept(place.output / "report" / "summary.json")["interrupted"] is not ignored


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_signal_before_the_first_image_ends_it_in_order_too(place: Workplace) -> None:
    draw(place.input / "a.png")

    def early() -> None:
        from tilehires.cli import run

        def terminated(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        run.config_of = terminated

    assert in_a_child(place, early) == ExitCode.INTERRUPTED
