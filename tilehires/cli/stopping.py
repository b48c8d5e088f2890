"""Ctrl-C, and a stop asked for by the system: once ends the run in order, twice at once."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from tilehires.errors import ExitCode, Interrupted, RunError


class Stop:
    """What SIGINT and SIGTERM do from now on. Whoever sends a second one doesn't want to wait for the report either.

    Libraries swallow a KeyboardInterrupt, or make another error of it: `asked` tells that it was one.
    """

    def __init__(self) -> None:
        self._asked = False
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._stop)

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._asked and isinstance(error, RunError) and not isinstance(error, Interrupted):
            raise Interrupted("The run was stopped.", hint="The same command goes on from here.") from error

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        if self._asked:
            os._exit(ExitCode.INTERRUPTED)
        self._asked = True
        raise KeyboardInterrupt
