"""The folder `.tilehires` in an output folder: cache, records, ledger, hashes, logs, and the lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tilehires.batch.files import raise_if_hopeless, remove_leftovers, write_json
from tilehires.batch.hashes import HashMemory
from tilehires.errors import ImageError, LockedError, RunError
from tilehires.records import Record


class Workspace:
    """Everything tilehires keeps beside the outputs of one output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.root = output / ".tilehires"
        self.cache = self.root / "cache"
        self.logs = self.root / "runs"
        self.staging = self.root / "staging"
        self._records = self.root / "records"
        self._ledger = self.root / "outputs.jsonl"
        self.hashes = HashMemory(self.root / "hashes.jsonl")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folders and hold the lock. Raises RunError where nothing can be written, LockedError when another run works here."""
        try:
            for folder in (self.cache, self.logs, self._records):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise_if_hopeless(error, self.root / "x")
            raise RunError(
                f"{self.output} can't be used as an output folder: {error.strerror}.", hint="Choose another with -o."
            ) from error
        lock = FileLock(self.root / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise LockedError(
                f"Another tilehires works on {self.output}.",
                hint="Wait for it to end, or choose another output folder with -o.",
            ) from error
        except OSError as error:
            raise_if_hopeless(error, self.root / "lock")
            raise
        try:
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir()
            remove_leftovers(self.root)
            yield
        finally:
            lock.release()

    def record(self, image: str) -> Record | None:
        """What the last run left about an image; None when there is nothing readable."""
        try:
            return Record.from_json(json.loads(self._record_path(image).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, record: Record) -> None:
        write_json(self._record_path(record.id), record.to_json())

    def records(self) -> list[Record]:
        """All readable records, by id."""
        names = sorted(self._records.glob("*.json"))
        found = []
        for name in names:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(Record.from_json(json.loads(name.read_text(encoding="utf-8"))))
        return sorted(found, key=lambda record: record.id)

    def publish(self, staged: Path, name: str) -> str:
        """Move a finished file to `name` in the output folder and return its hash.

        Raises ImageError when a file stands there that tilehires didn't make, or that was changed since. The ledger is
        written before the move: whenever the night ends, a file that we made is known to be ours.
        """
        final = self.output / name
        digest = self.hashes.sha256(staged)
        if final.exists() or final.is_symlink():
            self.check_ours(name)
        with self._ledger.open("a", encoding="utf-8") as ledger:
            ledger.write(json.dumps([name, digest]) + "\n")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(final)
        except OSError as error:
            raise_if_hopeless(error, final)
            raise
        return digest

    def check_ours(self, name: str) -> None:
        """Raise ImageError when output file `name` exists and tilehires didn't make it as it is now."""
        final = self.output / name
        if not final.exists() and not final.is_symlink():
            return
        made = set()
        if self._ledger.is_file():
            for line in self._ledger.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    path, digest = json.loads(line)
                    if path == name:
                        made.add(digest)
        if not final.is_file() or final.is_symlink() or self.hashes.sha256(final) not in made:
            raise ImageError(
                f"{final} exists, and tilehires didn't make it (or it was changed since).",
                hint="Move it away, or choose another output folder with -o.",
            )

    def _record_path(self, image: str) -> Path:
        # By hash: an id may be longer than a file name, or hold what a file system refuses.
        return self._records / f"{hashlib.sha256(image.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
