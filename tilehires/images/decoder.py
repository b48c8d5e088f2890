"""Who decodes: this process, or one beside it that a broken decoder may crash, hang or fill without harm to the run."""

from __future__ import annotations

import base64
import contextlib
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tilehires.errors import ImageError, RunError
from tilehires.geometry import Size
from tilehires.images.picture import MAX_PIXELS, Decoded, Picture, Probe
from tilehires.images.preview import preview
from tilehires.images.read import probe, read
from tilehires.images.worker import BASE_BYTES, BLOBS, BYTES_PER_PIXEL, receive, send

ENTRY = "import sys; sys.path.append(sys.argv[1]); from tilehires.images.worker import main; main()"
"""What the process runs. The package is found behind all others: what lies beside it can shadow nothing."""
SECONDS = 300
"""Time for one image, where no setting says another."""
_SAVE_IT = "Open and save it in an image editor, or take it out of the folder."
_PIPE = 1 << 20
_KINDS = {"uint8": 1, "uint16": 2}


class Decoder(Protocol):
    """Decodes files; every method raises ImageError for a file that can't be read, as `images.read` does."""

    def probe(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe: ...

    def read(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture: ...

    def preview(self, path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes: ...

    def __enter__(self) -> Decoder: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InProcess:
    """Decodes here: a crash of a decoder is a crash of the run."""

    def probe(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe:
        return probe(path, max_pixels=max_pixels)

    def read(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
        return read(path, max_pixels=max_pixels)

    def preview(self, path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
        return preview(path, side, max_pixels=max_pixels)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Isolated:
    """Decodes in one long-lived process, begun at first use and begun anew after a crash. Threads take turns.

    An image that crashes it, takes longer than `seconds`, or more memory than 1 GiB and 64 bytes for each of its pixels
    (held on Linux) is an ImageError. It guards against broken files and decoders; it is no sandbox against an intruder.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def probe(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe:
        said, _ = self._ask("probe", path, max_pixels)
        return Probe(**{**said, "size": Size(*said["size"])})

    def read(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
        said, samples = self._ask("read", path, max_pixels)
        blobs = {key: None if said[key] is None else base64.b64decode(said[key]) for key in BLOBS}
        dpi = None if said["dpi"] is None else tuple(said["dpi"])
        return Decoded(
            **blobs,
            samples=samples.view(said["dtype"]).reshape(said["shape"]),
            grey=said["grey"],
            texts=said["texts"],
            dpi=dpi,
            format=said["format"],
            notes=tuple(said["notes"]),
        ).picture()

    def preview(self, path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
        return self._ask("preview", path, max_pixels, side=side)[1].tobytes()

    def close(self) -> None:
        """End the process; the next request begins another."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, task: str, path: Path, max_pixels: int, **more: Any) -> tuple[dict[str, Any], np.ndarray]:
        """(the answer, its bytes)."""
        request = {"task": task, "path": str(path), "max_pixels": max_pixels, "seconds": self._seconds, **more}
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = _begin()
            try:
                said, payload = _exchange(self._process, request, self._seconds)
                if (
                    "crash" in said
                ):  # it is about to end by itself; within the turn, so that it is no other thread's that goes
                    raise RuntimeError(f"while decoding {path}: {said['crash']}")
            except BaseException:  # Ctrl-C as well: half an answer would be taken for the next one's
                self.close()
                raise
        if "error" in said:
            raise ImageError(said["error"], hint=said["hint"])
        if "memory" in said:
            raise ImageError(
                f"{path} takes more memory to decode than an image of its size should"
                f" ({BASE_BYTES >> 30} GiB and {BYTES_PER_PIXEL} bytes a pixel).",
                hint=_SAVE_IT,
            )
        return said, payload


@dataclass
class _Killer:
    """Kills a process that takes too long; `late` says that it did."""

    process: subprocess.Popen[bytes]
    late: bool = False

    def __call__(self) -> None:
        self.late = True
        self.process.kill()


def _begin() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-c", ENTRY, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=-1,
        )
    except OSError as error:
        raise _no_worker(str(error)) from error
    assert process.stdout is not None
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # a bound of the system for one user: then it stays at 64 KiB, and slower
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE)
    if receive(process.stdout) is None:
        _end(process)
        raise _no_worker(f"it ended with {process.returncode}")
    return process


def _no_worker(why: str) -> RunError:
    return RunError(
        f"The process that decodes images can't be started ({why}).",
        hint="Decode without one: --set run.decode_isolated=false.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """It keeps nothing that could be lost."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            _close(stream)


def _close(stream: Any) -> None:
    try:
        stream.close()
    except OSError:  # a request that was never taken is still in the buffer
        return


def _exchange(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], seconds: float
) -> tuple[dict[str, Any], np.ndarray]:
    """One request and its answer. Raises ImageError when the process crashes, hangs or answers nonsense."""
    assert process.stdin is not None and process.stdout is not None
    killer = _Killer(process)
    timer = threading.Timer(seconds, killer)
    timer.daemon = True
    timer.start()
    try:
        send(process.stdin, dict(request))
        said = receive(process.stdout)
        length = _payload_length(said, request["max_pixels"]) if said is not None else None
        if said is not None and length is not None:
            payload = np.empty(length, np.uint8)
            if _fill(process.stdout, payload):
                return said, payload
    except BrokenPipeError:
        pass  # it died before it took the request: the same as in the middle of it
    finally:
        timer.cancel()
    _end(process)
    if killer.late:
        raise ImageError(
            f"{request['path']} took longer than {seconds:g} s to decode.",
            hint=f"If it is that large, allow more: --set run.decode_seconds={math.ceil(seconds * 4)}. {_SAVE_IT}",
        )
    raise ImageError(f"{request['path']} crashed its decoder ({_cause(process.returncode)}).", hint=_SAVE_IT)


def _payload_length(said: Mapping[str, Any], max_pixels: int) -> int | None:
    """How many bytes follow an answer; None where it promises what no image within the limits has."""
    if "bytes" in said:
        length = said["bytes"]
        return length if isinstance(length, int) and 0 < length <= BASE_BYTES else None
    if "shape" not in said:
        return 0
    match said["shape"], said.get("dtype"):
        case [int(height), int(width), int(channels)], ("uint8" | "uint16") as kind:
            sane = height > 0 and width > 0 and height * width <= max_pixels and 1 <= channels <= 4
            return height * width * channels * _KINDS[kind] if sane else None
    return None


def _fill(stream: Any, target: np.ndarray) -> bool:
    """Read exactly as many bytes as fit; False when the stream ends before."""
    view, done = target.data, 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            return False
        done += count
    return True


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
