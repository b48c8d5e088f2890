"""Decoding ahead: the next image is read while the one before it is computed."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tilehires.images.decoder import Decoder
from tilehires.images.picture import MAX_PIXELS, Picture, Probe

AHEAD_PIXELS = 64_000_000
"""The largest picture that is held ahead: 12 bytes a pixel."""


class Ahead:
    """A decoder that was told what will be asked next. At most one picture waits."""

    def __init__(self, decoder: Decoder) -> None:
        """`decoder` decodes, and lets threads take turns; it is closed with this."""
        self._decoder = decoder
        self._thread = ThreadPoolExecutor(1, "tilehires-ahead")
        self._then: tuple[Path, int] | None = None
        self._waiting: tuple[tuple[object, ...], Future[Picture | None]] | None = None

    def then(self, path: Path | None, *, max_pixels: int = MAX_PIXELS) -> None:
        """Read this file once the one that is asked for next has been read. What fails is read again when asked for."""
        self._then = (path, max_pixels) if path else None

    def read(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
        waiting, self._waiting = self._waiting, None
        picture = None
        # A file that was written to since is not the one that was read.
        if waiting and waiting[0] == _key(path, max_pixels):
            picture = None if waiting[1].exception() else waiting[1].result()
        picture = picture or self._decoder.read(path, max_pixels=max_pixels)
        following, self._then = self._then, None
        if following:
            self._begin(*following)
        return picture

    def _begin(self, path: Path, max_pixels: int) -> None:
        def small() -> Picture | None:
            size = self._decoder.probe(path, max_pixels=max_pixels).size
            return self._decoder.read(path, max_pixels=max_pixels) if size.pixels <= AHEAD_PIXELS else None

        with contextlib.suppress(OSError):
            self._waiting = (_key(path, max_pixels), self._thread.submit(small))

    def probe(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe:
        return self._decoder.probe(path, max_pixels=max_pixels)

    def preview(self, path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
        return self._decoder.preview(path, side, max_pixels=max_pixels)

    def __enter__(self) -> Ahead:
        self._decoder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._decoder.__exit__(kind, error, trace)  # ends what is being decoded
        self._thread.shutdown()


def _key(path: Path, max_pixels: int) -> tuple[object, ...]:
    status = path.stat()
    return str(path), max_pixels, status.st_size, status.st_mtime_ns, status.st_ino
