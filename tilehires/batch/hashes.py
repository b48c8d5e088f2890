"""SHA-256 of files, remembered by (size, mtime, inode), so that a checkpoint of 7 GB isn't read at every start."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tilehires.files import append_line, read_lines

Learned = tuple[str, list[int], str]
"""A file's path, its size, mtime and inode, and its hash."""


class HashMemory:
    """File hashes with a memory on disk: JSON lines, only appended to. A damaged line is forgotten, never trusted."""

    def __init__(self, path: Path | None, *, writes: bool = True) -> None:
        """`path`: where the memory is kept; None remembers nothing beyond this object.

        Without `writes` it is only read: one process appends to it, and the others hand theirs over (`learned`).
        """
        self._path, self._writes = path, writes
        self._new: list[Learned] = []
        self._known: dict[str, tuple[list[int], str]] = {}
        for line in read_lines(path) if path else ():
            match line:
                case [str(name), [int(), int(), int()] as stamp, str(digest)]:
                    self._known[name] = (list(stamp), digest)

    def sha256(self, file: Path) -> str:
        """The hex digest of the file's bytes. Raises OSError when it can't be read, RunError when the disk is full."""
        name, stamp = _identity(file)
        known = self._known.get(name)
        if known and known[0] == stamp:
            return known[1]
        digest = file_sha256(file)
        self._remember(name, stamp, digest)
        return digest

    def remember(self, file: Path, digest: str) -> None:
        """Take over a digest that the caller knows for certain. Raises as `sha256`."""
        self._remember(*_identity(file), digest)

    def learned(self) -> list[Learned]:
        """What a memory that isn't written came to know since this was last asked."""
        new, self._new = self._new, []
        return new

    def learn(self, lines: Iterable[Learned]) -> None:
        """Take over what another process's memory has `learned`. Raises RunError when the disk is full."""
        for line in lines:
            self._remember(*line)

    def _remember(self, name: str, stamp: list[int], digest: str) -> None:
        self._known[name] = (stamp, digest)
        if self._path is None:
            return
        if self._writes:
            append_line(self._path, [name, stamp, digest])
        else:
            self._new.append((name, stamp, digest))


def file_sha256(file: Path) -> str:
    """The hex digest of the file's bytes, read now. Raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(file: Path) -> list[int]:
    """Size, mtime and inode; of a folder nothing but that it is one; empty where there is nothing."""
    try:
        status = file.stat()
    except OSError:
        return []
    return [] if file.is_dir() else [status.st_size, status.st_mtime_ns, status.st_ino]


def _identity(file: Path) -> tuple[str, list[int]]:
    status = file.stat()
    return str(file.resolve()), [status.st_size, status.st_mtime_ns, status.st_ino]
