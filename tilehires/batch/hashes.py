"""SHA-256 of files, remembered by (size, mtime, inode), so that a checkpoint of 7 GB isn't read at every start."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


class HashMemory:
    """File hashes with a memory on disk: JSON lines, only appended to. A damaged line is forgotten, never trusted."""

    def __init__(self, path: Path | None) -> None:
        """`path`: where the memory is kept; None remembers nothing beyond this object."""
        self._path = path
        self._known: dict[str, tuple[list[int], str]] = {}
        if path and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    name, stamp, digest = json.loads(line)
                except ValueError:
                    continue
                self._known[name] = (stamp, digest)

    def sha256(self, file: Path) -> str:
        """The hex digest of the file's bytes. Raises OSError when it can't be read."""
        name, status = str(file.resolve()), file.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(name)
        if known and known[0] == stamp:
            return known[1]
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._known[name] = (stamp, digest)
        if self._path is None:
            return digest
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as memory:
            memory.write(json.dumps([name, stamp, digest]) + "\n")
        return digest
