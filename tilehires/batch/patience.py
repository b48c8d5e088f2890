"""A bound on the time that one image may take: whatever hangs costs that image, not the night."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator

from tilehires.errors import ImageError, RunError

AGAIN = 10.0  # seconds until a word that was swallowed, in a finaliser for instance, is said again


class _TooLong(BaseException):
    """No Exception, so that no library's own fence takes it for one of its errors."""


@contextlib.contextmanager
def time_limit(seconds: float, image: str) -> Iterator[None]:
    """Raise ImageError inside when it takes longer than that, by a clock that never jumps; 0 is no limit.

    In the main thread, where the system has alarms, this also ends a wait for a file or a lock. Elsewhere Python code is
    interrupted between two of its instructions. A call into a library that never comes back can't be broken off so.
    """
    if seconds <= 0:
        yield
        return
    rung: list[bool] = []
    alarms = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    try:
        with _alarm(seconds, rung) if alarms else _watchdog(seconds, rung):
            yield
    except (_TooLong, RunError) as error:
        if isinstance(error, RunError) and not rung:
            raise
        # Rung: a library may have made another error of it.
        raise ImageError(
            f"{image} took longer than {seconds:g} s and was given up (run.image_time_limit).",
            hint="Raise the limit, or look at the log for what it was at. Its finished stages are kept.",
        ) from None


@contextlib.contextmanager
def _alarm(seconds: float, rung: list[bool]) -> Iterator[None]:
    def ring(*_: object) -> None:
        rung.append(True)
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _watchdog(seconds: float, rung: list[bool]) -> Iterator[None]:
    thread, ended = threading.get_ident(), threading.Event()

    def watch() -> None:
        pause = seconds
        while not ended.wait(pause):
            rung.append(True)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))
            pause = AGAIN

    watcher = threading.Thread(target=watch, name="tilehires-patience", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
