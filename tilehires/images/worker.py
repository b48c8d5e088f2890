"""The decoding process: takes a path, answers with pixels or an error, and may be killed at any moment.

Requests and answers are JSON, each behind its length (8 bytes, big-endian); an answer's samples or file follow it as raw
bytes. Nothing is unpickled on either side.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from tilehires.errors import ImageError
from tilehires.images.preview import preview
from tilehires.images.read import decode, probe

BASE_BYTES, BYTES_PER_PIXEL = 1 << 30, 64
"""What the process may take while it decodes an image, beyond what it had before; sixteen bits with alpha take most."""
LONGEST_MESSAGE = 1 << 29
BLOBS = ("icc", "exif", "xmp", "iptc")


def send(stream: IO[bytes], message: dict[str, Any], payload: Any = b"") -> None:
    body = json.dumps(message).encode("ascii")
    stream.write(struct.pack(">Q", len(body)) + body)
    if len(payload):
        stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next message; None where the other side has gone, or sends something that is none."""
    head = stream.read(8)
    if len(head) < 8 or (length := struct.unpack(">Q", head)[0]) > LONGEST_MESSAGE:
        return None
    body = stream.read(length)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and len(body) == length else None


def main() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's to act on
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_FSIZE", 0)  # a decoder has no file to write
    sys.excepthook = lambda *raised: send(answers, {"crash": "".join(traceback.format_exception(*raised))})
    send(answers, {"ready": True})
    while (request := receive(sys.stdin.buffer)) is not None:
        with _bounded(request["seconds"]):
            message, payload = _answer(request)
        send(answers, message, payload)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    path, most = Path(request["path"]), request["max_pixels"]
    try:
        if request["task"] == "probe":
            header = asdict(probe(path, max_pixels=most))
            return {**header, "size": [header["size"]["width"], header["size"]["height"]]}, b""
        size = probe(path, max_pixels=most).size
        with _memory(BASE_BYTES + BYTES_PER_PIXEL * size.pixels):
            if request["task"] == "preview":
                made = preview(path, request["side"], max_pixels=most)
                return {"bytes": len(made)}, made
            found = decode(path, max_pixels=most)
    except ImageError as error:
        return {"error": error.message, "hint": error.hint}, b""
    except MemoryError:
        return {"memory": True}, b""
    samples = np.ascontiguousarray(found.samples)
    message: dict[str, Any] = {key: value for key, value in vars(found).items() if key != "samples"}
    for key in BLOBS:
        message[key] = None if message[key] is None else base64.b64encode(message[key]).decode("ascii")
    return {**message, "shape": samples.shape, "dtype": samples.dtype.name}, samples.data.cast("B")


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Memory for a header, and an end even where nobody is left to kill this process."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds + 5)  # unhandled, SIGALRM ends the process, within C code too
    try:
        with _memory(BASE_BYTES):
            yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let the process take that many bytes of address space beyond what it has, where the system can tell and hold it."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limit(name: str, most: int) -> None:
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(getattr(resource, name), (most, most))
