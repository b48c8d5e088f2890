"""Ctrl-C, and a stop asked for by the system: once ends the run in order, twice at once."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from tilehires.errors import ExitCode, Interrupted

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
"""Of the system, Ctrl-C, and a terminal that was closed; Windows has no SIGHUP."""


class Stop:
    """What those signals do from now on, but for those that are ignored (`nohup`, a script's background job). Whoever sends a
    second one doesn't want to wait for the report either.

    Libraries swallow a KeyboardInterrupt, or make another error of it: `asked` tells that it was one.
    """

    def __init__(self) -> None:
        self._asked = False
        for one in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(one) != signal.SIG_IGN:
                signal.signal(one, self._stop)

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._asked and isinstance(error, Exception) and not isinstance(error, Interrupted):
            raise Interrupted("The run was stopped.", hint="The same command goes on from here.") from error

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        if self._asked:
            os._exit(ExitCode.INTERRUPTED)
        self._asked = True
        raise KeyboardInterrupt
