"""The folder `.tilehires` in an output folder: cache, records, ledger, hashes, logs, and the lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tilehires.batch.hashes import HashMemory, file_sha256, stamp
from tilehires.batch.hashes import Learned as LearnedHash
from tilehires.batch.known import Learned as LearnedNote
from tilehires.batch.mirror import Mirror
from tilehires.errors import ImageError, LockedError, RunError
from tilehires.files import (
    append_line,
    ours,
    raise_if_hopeless,
    read_lines,
    remove_leftovers,
    sync_folder,
    write_json,
    writing,
)
from tilehires.records import FileRecord, Record


@dataclass(frozen=True)
class Learned:
    """What a worker hands over: hashes of files, and notes on what it has put into a store."""

    hashes: tuple[LearnedHash, ...] = ()
    notes: tuple[LearnedNote, ...] = ()


def _silent(_: str) -> None:
    return None


DISCARDED = "review/discarded"


class Workspace:
    """Everything tilehires keeps beside the outputs of one output folder."""

    def __init__(self, output: Path, worker: str = "", url: str = "") -> None:
        """`worker`: the name of one that works under another process's lock; it appends to no file but its own.

        `url`: the object store that the folder is the local half of (mirror.py).
        """
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
        self.url = url
        self.mirror = Mirror(url, output, self.hashes, worker) if url else None

    @contextlib.contextmanager
    def locked(self, note: Callable[[str], None] = _silent) -> Iterator[None]:
        """Create the folders and hold the lock. `note`: told of what takes time.

        Raises RunError where nothing can be written, LockedError when another run works here.
        """
        if re.match("[a-z][a-z0-9+.-]+:/", self.output.as_posix()):
            raise RunError(
                f"{self.output} is the address of an object store, and was taken for a folder's path.",
                hint="Give it as text, not as a Path: run(config, source, 's3://bucket/folder').",
            )
        self._make_folders()
        lock = FileLock(self.root / "lock", timeout=0)
        try:
            with ours(self.root / "lock"):
                lock.acquire()
        except Timeout as error:
            raise LockedError(
                f"Another tilehires works on {self.url or self.output}.",
                hint="Wait for it to end, or choose another output folder with -o.",
            ) from error
        try:
            with self.mirror.locked(note) if self.mirror else contextlib.nullcontext():
                self._begin()
                yield
        finally:
            lock.release()

    def _make_folders(self) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise_if_hopeless(error, self.root)
            raise RunError(
                f"{self.output} can't be used as an output folder: {error.strerror}.", hint="Choose another with -o."
            ) from error
        for folder in (self.cache, self.logs, self._records):
            with ours(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def _begin(self) -> None:
        """What a killed run left goes; what it finished is known."""
        shutil.rmtree(self.staging, ignore_errors=True)
        with ours(self.staging):
            self.staging.mkdir(exist_ok=True)
        for folder in (self.root, self.report):
            remove_leftovers(folder)
        self._join_ledgers()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Work as a worker, under the lock that another process holds."""
        if self.mirror:
            self._make_folders()
            self._clear_earlier_runs()
            self.mirror.join()
        self.staging.mkdir(parents=True, exist_ok=True)
        self._read_ledgers()
        try:
            yield
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _clear_earlier_runs(self) -> None:
        """What dead workers of other runs left on a machine without a driver. All of one run have a token in their names."""
        token = self.staging.name.rpartition("-")[0]
        for left in self.staging.parent.glob("*-*"):
            if left.is_dir() and not left.name.startswith(f"{token}-"):
                shutil.rmtree(left, ignore_errors=True)

    def tidy(self) -> None:
        """Once all workers have left: what they, or those of them that died, leave behind goes."""
        for left in self.staging.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        remove_leftovers(self.root)
        self._join_ledgers()

    def learned(self) -> Learned:
        """What a worker came to know since this was last asked, for the driver."""
        return Learned(tuple(self.hashes.learned()), tuple(self.mirror.learned() if self.mirror else ()))

    def learn(self, learned: Learned) -> None:
        """Take over what a worker came to know."""
        self.hashes.learn(learned.hashes)
        if self.mirror:
            self.mirror.learn(learned.notes)

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
        made: dict[str, set[str]] = {}
        for ledger in (self.root / "outputs.jsonl", *self.root.glob("outputs-*.jsonl")):
            for line in read_lines(ledger):
                match line:
                    case [str(name), str(digest)]:
                        made.setdefault(name, set()).add(digest)
        # At once: a file that is written behind is compared with what is known meanwhile.
        self._made = made

    def record(self, image: str) -> Record | None:
        """What the last run left about an image; None when there is nothing readable."""
        try:
            return Record.from_json(json.loads(self._record_path(image).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, record: Record) -> None:
        self.write_json(self._record_path(record.id), record.to_json())

    def write_json(self, path: Path, body: Any) -> None:
        """Write a file that belongs to the results."""
        (self.mirror.write_json if self.mirror else write_json)(path, body)

    def publish(self, staged: Path, name: str) -> str:
        """Move a finished file to `name` in the output folder and return its hash.

        Raises ImageError when a file stands there that tilehires didn't make, or that was changed since. The ledger is
        written before the move: whenever the night ends, a file that we made is known to be ours.
        """
        final = self.output / name
        if self.mirror:
            self.mirror.look_again(name)
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
        if self.mirror:
            self.mirror.publish(name, digest)
        return digest

    def stands(self, file: FileRecord) -> bool:
        """Whether an output is there as it was made."""
        if self.mirror:
            return self.holds(file.path, file.sha256)
        final = self.output / file.path
        return final.is_file() and self.hashes.sha256(final) == file.sha256

    def stamp(self, name: str) -> list[Any]:
        """What tells an output from any other without reading it; empty where there is none."""
        return self.mirror.stamp(name) if self.mirror else stamp(self.output / name)

    def file(self, name: str) -> Path:
        """An output as a file of this machine."""
        if self.mirror:
            self.mirror.fetch(name)
        return self.output / name

    def shown(self, path: Path) -> str:
        """The place of a file of the results, for people."""
        return f"{self.url}/{path.relative_to(self.output).as_posix()}" if self.url else str(path)

    @contextlib.contextmanager
    def reporting(self, records: Iterable[Record]) -> Iterator[Container[str]]:
        """Around the writing of the report on these images. Gives the outputs that lie in a store."""
        if not self.mirror:
            yield ()
            return
        with self.mirror.reporting(records) as there:
            yield there

    def set_aside(self, name: str) -> None:
        """Move a discarded output to DISCARDED, where nothing is made or replaced by a run."""
        if self.mirror:
            self.mirror.set_aside(name, f"{DISCARDED}/{name}")
            return
        final, aside = self.output / name, self.output / DISCARDED / name
        if final.is_file():
            self.check_ours(name)
            with writing(aside):
                aside.parent.mkdir(parents=True, exist_ok=True)
                final.replace(aside)

    def holds(self, name: str, digest: str) -> bool:
        """Whether output file `name` has just these bytes."""
        if self.mirror:
            return self.mirror.sha256(name) == digest
        final = self.output / name
        return final.is_file() and not final.is_symlink() and self.hashes.sha256(final) == digest

    def remove(self, name: str) -> None:
        """Delete output file `name`, if it is there. Raises ImageError when tilehires didn't make it as it is now."""
        if self.mirror:
            self.mirror.remove(name)
            return
        self.check_ours(name)
        (self.output / name).unlink(missing_ok=True)

    def check_ours(self, name: str) -> None:
        """Raise ImageError when output file `name` can't be one, or exists and tilehires didn't make it as it is now."""
        if self.mirror:
            self.mirror.check_ours(name)
            return
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
