"""The folder `.tilehires` in an output folder: cache, records, ledger, hashes, logs, and the lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tilehires.batch.hashes import HashMemory, file_sha256
from tilehires.errors import ImageError, LockedError, RunError
from tilehires.files import (
    append_line,
    raise_if_hopeless,
    read_lines,
    remove_leftovers,
    sync_folder,
    write_json,
    writing,
)
from tilehires.records import Record


class Workspace:
    """Everything tilehires keeps beside the outputs of one output folder."""

    def __init__(self, output: Path, worker: str = "") -> None:
        """`worker`: the name of one that works under another process's lock; it appends to no file but its own."""
        self.output = output
        self.root = output / ".tilehires"
        self.cache = self.root / "cache"
        self.logs = self.root / "runs"
        self.staging = self.root / "staging" / worker
        self.report = output / "report"
        self._records = self.root / "records"
        self._ledger = self.root / (f"outputs-{worker}.jsonl" if worker else "outputs.jsonl")
        self._made: dict[str, set[str]] = {}
        self.hashes = HashMemory(self.root / "hashes.jsonl", writes=not worker)
        self.marks = self.root / "marks.json"
        self.finished = self.root / "finished.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folders and hold the lock.

        Raises RunError where nothing can be written, LockedError when another run works here.
        """
        if re.match("[a-z][a-z0-9+.-]+:/", self.output.as_posix()):
            raise RunError(
                f"{self.output} names an object store, and results are written into folders only.",
                hint="Mount the bucket as a folder (s3fs, gcsfuse, rclone mount), or copy the results there afterwards.",
            )
        try:
            for folder in (self.cache, self.logs, self._records):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise_if_hopeless(error, self.root)
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
            self._begin()
            yield
        finally:
            lock.release()

    def _begin(self) -> None:
        """What a killed run left goes; what it finished is known."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(exist_ok=True)
        for folder in (self.root, self.report):
            remove_leftovers(folder)
        self._join_ledgers()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Work as a worker, under the lock that another process holds."""
        self.staging.mkdir(exist_ok=True)
        self._read_ledgers()
        try:
            yield
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def tidy(self) -> None:
        """Once all workers have left: what they, or those of them that died, leave behind goes."""
        for left in self.staging.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        remove_leftovers(self.root)
        self._join_ledgers()

    def _join_ledgers(self) -> None:
        """One ledger of what the workers' say."""
        for part in self.root.glob("outputs-*.jsonl"):
            lines = list(read_lines(part))
            for number, line in enumerate(lines, 1):
                append_line(self._ledger, line, durable=number == len(lines))
            part.unlink()
        self._read_ledgers()

    def _read_ledgers(self) -> None:
        """Know what is ours: the ledger, and those of workers that aren't in it yet."""
        self._made = {}
        for ledger in (self.root / "outputs.jsonl", *self.root.glob("outputs-*.jsonl")):
            for line in read_lines(ledger):
                match line:
                    case [str(name), str(digest)]:
                        self._made.setdefault(name, set()).add(digest)

    def record(self, image: str) -> Record | None:
        """What the last run left about an image; None when there is nothing readable."""
        try:
            return Record.from_json(json.loads(self._record_path(image).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, record: Record) -> None:
        write_json(self._record_path(record.id), record.to_json())

    def publish(self, staged: Path, name: str) -> str:
        """Move a finished file to `name` in the output folder and return its hash.

        Raises ImageError when a file stands there that tilehires didn't make, or that was changed since. The ledger is
        written before the move: whenever the night ends, a file that we made is known to be ours.
        """
        final = self.output / name
        self.check_ours(name)
        digest = file_sha256(staged)
        append_line(self._ledger, [name, digest], durable=True)
        self._made.setdefault(name, set()).add(digest)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(final)
            sync_folder(final.parent)
        except OSError as error:
            raise_if_hopeless(error, final)
            raise ImageError(
                f"{final} can't be written: {error.strerror}.",
                hint="Look for a file or a folder of that name in its way, or choose another output folder with -o.",
            ) from error
        self.hashes.remember(final, digest)
        return digest

    def set_aside(self, name: str) -> None:
        """Move a discarded output to review/discarded/, where nothing is made or replaced by a run."""
        final, aside = self.output / name, self.output / "review" / "discarded" / name
        if final.is_file():
            self.check_ours(name)
            with writing(aside):
                aside.parent.mkdir(parents=True, exist_ok=True)
                final.replace(aside)

    def holds(self, name: str, digest: str) -> bool:
        """Whether output file `name` has just these bytes."""
        final = self.output / name
        return final.is_file() and not final.is_symlink() and self.hashes.sha256(final) == digest

    def remove(self, name: str) -> None:
        """Delete output file `name`, if it is there. Raises ImageError when tilehires didn't make it as it is now."""
        self.check_ours(name)
        (self.output / name).unlink(missing_ok=True)

    def check_ours(self, name: str) -> None:
        """Raise ImageError when output file `name` can't be one, or exists and tilehires didn't make it as it is now."""
        final = self.output / name
        try:
            final.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise ImageError(
                f"{final} can't be written: {error.strerror}.", hint="Rename the input, or choose another run.format."
            ) from error
        if not final.is_file() or final.is_symlink() or not self._is_made(name):
            raise ImageError(
                f"{final} exists, and tilehires didn't make it (or it was changed since).",
                hint="Move it away, or choose another output folder with -o.",
            )

    def _is_made(self, name: str) -> bool:
        digest = self.hashes.sha256(self.output / name)
        if digest not in self._made.get(name, set()):
            self._read_ledgers()  # a worker that was killed may have made it a moment ago
        return digest in self._made.get(name, set())

    def _record_path(self, image: str) -> Path:
        # By hash: an id may be longer than a file name, or hold what a file system refuses.
        return self._records / f"{hashlib.sha256(image.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
