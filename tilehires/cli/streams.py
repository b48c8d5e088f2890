"""What a command says must not end it: standard streams that outlast their reader."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

_WRITTEN_OUT = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Control characters, line ends, and what turns the direction of writing."""


def one_line(text: str) -> str:
    """The text with line ends and control characters written out: a file name may hold them, and forge a line of the log."""
    return text.translate(_WRITTEN_OUT)


class Lasting(io.FileIO):
    """A file descriptor to write to. Once nothing can be written (a pipe that was closed, a terminal that has gone, a full
    disk), what comes is dropped.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """stdout and stderr that last, inside, and take file names that aren't text in the terminal's encoding.

    Descriptors 0 to 2 that were closed are opened: else a cache file would get one, and whatever a library prints.
    """
    _hold_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _text(sys.stdout, 1), _text(sys.stderr, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _hold_descriptors() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free


def _text(stream: Any, number: int) -> Any:
    """The stream, lasting where it is the process's own and not what a caller put in its place."""
    own = stream is None or stream in (sys.__stdout__, sys.__stderr__)
    if own and os.name == "posix":  # a Windows console takes text, not bytes
        raw = io.BufferedWriter(Lasting(number, "w", closefd=False))
        encoding = getattr(stream, "encoding", None) or "utf-8"
        return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)
    if stream is not None and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream
