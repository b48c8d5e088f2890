"""Writing that survives a crash: a file is either there whole or not there at all.

The order is restic's and borg's: temporary file in the same folder, fsync, rename, fsync the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tilehires.errors import DiskFullError, RunError

TEMPORARY = ".tilehires-tmp-"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under `path` only when the block ends without an error.

    Raises RunError when it can't be written: no later image would fare better.
    """
    temporary: str | None = None
    try:
        with ours(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def ours(path: Path) -> Iterator[None]:
    """Around what makes, opens or writes `path`, which is for tilehires alone: whatever the system says to that is a RunError."""
    try:
        yield
    except OSError as error:
        raise_if_hopeless(error, path)
        if error.errno is None:  # a library's own, which names no fault of the system
            raise
        raise RunError(
            f"{path} can't be written: {error.strerror}.",
            hint="Look for a file, a folder or a link in its way, and whether the drive is still there; then the same"
            " command: what is done is kept.",
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around work that may write into `path` and elsewhere: a full disk or missing rights become a RunError."""
    try:
        yield
    except OSError as error:
        raise_if_hopeless(error, path)
        raise


def raise_if_hopeless(error: OSError, path: Path) -> None:
    """Turn an error that will meet every further image too into one that stops the run and says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(
            f"The disk is full: {path} could not be written.",
            hint="Free some space and run the same command again: what is done is kept.",
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
        raise RunError(
            f"{path.parent} can't be written: {error.strerror}.", hint="Choose another output folder with -o."
        ) from error


def write_json(path: Path, body: Any) -> None:
    """Write JSON atomically, indented; ASCII, so that file names of any bytes survive."""
    with atomic(path) as stream:
        stream.write(json.dumps(body, indent=1).encode())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can (Windows can't open folders)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, body: Any, *, durable: bool = False) -> None:
    """Append one line of JSON, `durable` through a power cut.

    A line is begun with a newline as well: one that a full disk cut off spoils itself alone, not the next.
    """
    with ours(path), path.open("a", encoding="ascii") as stream:
        stream.write("\n" + json.dumps(body) + "\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def read_lines(path: Path) -> Iterator[Any]:
    """The JSON values of a file that `append_line` wrote; damaged lines are left out. Nothing where there is no file.

    Raises RunError where it is there and can't be read.
    """
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RunError(
            f"{path} can't be read: {error.strerror}.",
            hint="Is it another user's? Change its owner, or choose another output folder with -o.",
        ) from error
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(line)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files a killed process left behind. Only call while holding the output's lock."""
    for leftover in folder.rglob(TEMPORARY + "*"):
        leftover.unlink(missing_ok=True)
