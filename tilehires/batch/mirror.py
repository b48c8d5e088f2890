"""An object store that is kept equal to a folder of this machine, its local half, in which the run works as in any other.

There lie the outputs, a note on each that says it is ours, the records, the marks, and the report. The stage cache, the logs
and what is remembered of files stay here. What is there counts: an output that isn't there isn't done, wherever it lies, and
one that changed there isn't ours. One listing at the start tells, by each object's tag; no unchanged object is read.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from tilehires.batch.hashes import HashMemory
from tilehires.batch.known import NOTES, Known, Learned, Note, Unsent, Version, note_of
from tilehires.batch.object_lock import ObjectLock
from tilehires.batch.objects import Objects, size_in
from tilehires.errors import ImageError
from tilehires.files import TEMPORARY, write_json
from tilehires.images import MAX_PIXELS, Decoder
from tilehires.records import FileRecord, Record
from tilehires.report.thumbs import FOLDER as THUMBS
from tilehires.report.thumbs import name_of, thumbnail

OURS = ".tilehires/"
RECORDS, MARKS, BEACON = f"{OURS}records/", f"{OURS}marks.json", f"{OURS}going-"


class Mirror:
    """The store's side of a workspace. Raises RunError wherever the store can't be used."""

    def __init__(self, url: str, folder: Path, hashes: HashMemory, worker: str = "") -> None:
        """`folder`: the local half. `worker`: the name of one that works under another process's lock."""
        self._url, self._folder, self._hashes = url, folder, hashes
        self._known = Known(folder / OURS, worker)
        self._opened: Objects | None = None
        self._lock: ObjectLock | None = None
        self._there: dict[str, str] = {}
        self._foreign: dict[str, str] = {}
        self._thumbs: set[str] = set()
        self._reported: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def locked(self, note: Callable[[str], None]) -> Iterator[None]:
        """Hold the store's lock, with this half equal to it. The half is locked already. `note`: told of what takes time."""
        self._lock = ObjectLock(self._objects, self._half())
        with self._lock.held(note):
            self._begin()
            yield

    def join(self) -> None:
        """See the store as a worker, under the lock of the driver, who may be on another machine."""
        self._known.load(join=False)
        self._fetch(self._look())

    def check_ours(self, name: str) -> None:
        """Raise ImageError when an object stands under an output's name that we didn't make as it is, or when none could."""
        self._objects.check_name(name)
        if name in self._there and self.sha256(name) is None:
            raise ImageError(
                f"{self._url}/{name} exists, and tilehires didn't make it (or it was changed since).",
                hint="Move it away, or choose another output with -o.",
            )

    def sha256(self, name: str) -> str | None:
        """The hash of an output that is there as we made it. It is read only where its note doesn't know its tag."""
        tag, note = self._there.get(name), self._note(name)
        if tag is None or note is None:
            return None
        for version in note.versions:
            if version.tag == tag:
                return version.sha256
        if self._foreign.get(name) == tag:
            return None
        if size_in(tag) in {version.size for version in note.versions}:
            digest = self._objects.sha256(name)
            for version in note.versions:
                if version.sha256 == digest:  # put by a run that ended before it knew, or copied to here
                    self._write_note(Note(name, replace(version, tag=tag)))
                    return digest
        self._foreign[name] = tag
        return None

    def stamp(self, name: str) -> list[Any]:
        """What tells an output from any other without reading it; empty where there is none."""
        return [self._there[name]] if name in self._there else []

    def look_again(self, name: str) -> None:
        """Know what stands under a name now: another program, or a worker that was killed, may have put it.

        Raises RunError when another run has taken the lock.
        """
        if self._lock:
            self._lock.verify()
        tag = self._objects.tag(name)
        if tag == self._there.get(name):
            return
        self._there.pop(name, None)
        if tag is None:
            return
        self._there[name] = tag
        for about, data in self._objects.read_all([note_of(name)]):
            if note := Note.read(data):
                self._known.notes[about] = ("", note)

    def publish(self, name: str, digest: str) -> None:
        """Put an output that lies here under its name, where `look_again` and `check_ours` have let it."""
        self._known.will_send(name, Unsent(digest, self._there.get(name)))
        self._send_output(name, digest)

    def write_json(self, path: Path, body: Any) -> None:
        """Write a file here and there."""
        name = path.relative_to(self._folder).as_posix()
        self._known.will_send(name, Unsent("", self._known.fetched.get(name)))
        write_json(path, body)
        self._known.sent(name, self._objects.put(path, name))

    def remove(self, name: str) -> None:
        """Have no output of that name. Raises ImageError when it isn't ours."""
        self.check_ours(name)
        (self._folder / name).unlink(missing_ok=True)
        if name in self._there:
            self._delete(name)

    def set_aside(self, name: str, aside: str) -> None:
        """Have an output under another name, where nothing is made or replaced."""
        if name in self._there:
            self.check_ours(name)
            self._objects.copy(name, aside)
            self._delete(name)
        if (here := self._folder / name).is_file():
            (self._folder / aside).parent.mkdir(parents=True, exist_ok=True)
            here.replace(self._folder / aside)

    def fetch(self, name: str) -> None:
        """Have an output here as it is there."""
        digest, here = self.sha256(name), self._folder / name
        if digest and not (here.is_file() and self._hashes.sha256(here) == digest):
            self._objects.fetch(name, here)

    @contextlib.contextmanager
    def reporting(self, records: Iterable[Record]) -> Iterator[Container[str]]:
        """Inside, the report's folder here has what previews there are; then it is put. Gives what outputs are there."""
        self._fetch_previews(records)
        yield self._there.keys()
        report = self._folder / "report"
        files = {path.relative_to(self._folder).as_posix(): path for path in report.rglob("*") if path.is_file()}
        previews = {name for name in files if name.startswith(THUMBS)}
        stamps = {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in files.items()}
        self._objects.put_all(
            {
                name: path
                for name, path in files.items()
                if self._reported.get(name) != stamps[name] and name not in self._thumbs
            }
        )
        # An output that this run hasn't reached keeps its preview: to make it again, it would have to be fetched.
        kept = {f"{THUMBS}{name_of(note.now.sha256)}" for _, note in self._known.notes.values()}
        needless = self._thumbs - previews - kept
        for name in needless:
            self._objects.delete(name)
        self._reported, self._thumbs = stamps, (self._thumbs | previews) - needless

    def put_preview(self, output: FileRecord, decoder: Decoder) -> None:
        """Put the preview of an output that lies here, so that no other machine needs the output for its report."""
        most = max(MAX_PIXELS, output.size[0] * output.size[1])
        folder = self._folder / THUMBS
        made = thumbnail(self._folder / output.path, output.sha256, folder, decoder, max_pixels=most)
        if made and f"{THUMBS}{made}" not in self._thumbs:
            self._objects.put(folder / made, f"{THUMBS}{made}")
            self._thumbs.add(f"{THUMBS}{made}")

    def learned(self) -> list[Learned]:
        """What was put, for a driver."""
        return self._known.learned()

    def learn(self, learned: Iterable[Learned]) -> None:
        """Take over what a worker has put. Raises RunError when another run has taken the lock."""
        if self._lock:
            self._lock.verify()
        for note in self._known.learn(learned):
            self._there[note.name] = note.now.tag or ""

    @property
    def _objects(self) -> Objects:
        if self._opened is None:
            self._opened = Objects(self._url)
        return self._opened

    def _half(self) -> str:
        """This half's id, kept beside the store's address, by which people know the folder."""
        path = self._folder / OURS / "half.json"
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (OSError, ValueError, KeyError, TypeError):
            write_json(path, {"id": (made := uuid4().hex), "of": self._url})
            return made

    def _begin(self) -> None:
        """What this machine has yet to put is put, and what others put is fetched."""
        self._known.load(join=True)
        listed = self._look()
        for name in [name for name in listed if TEMPORARY in name or name.startswith(BEACON)]:
            self._objects.delete(name)
        # An output before its record.
        for name, what in sorted(self._known.unsent.items(), key=lambda item: item[0].startswith(OURS)):
            if name.startswith(OURS):
                self._resume_state(name, what, listed)
            else:
                self._resume_output(name, what)
        self._fetch(listed)
        for path in (self._folder / RECORDS).iterdir():
            if f"{RECORDS}{path.name}" not in listed:
                path.unlink()
        if MARKS not in listed:
            (self._folder / MARKS).unlink(missing_ok=True)
        for name in self._known.fetched.keys() - listed.keys():
            self._known.forget(name)

    def _look(self) -> dict[str, str]:
        """List the store, and read the notes that are new."""
        listed = self._objects.listing()
        mine = re.compile(r"(\.tilehires|report)/")
        self._there = {name: tag for name, tag in listed.items() if not mine.match(name) and TEMPORARY not in name}
        self._thumbs = {name for name in listed if name.startswith(THUMBS)}
        notes = {name: tag for name, tag in listed.items() if name.startswith(NOTES)}
        held = self._known.notes
        new = [name for name, tag in notes.items() if name not in held or held[name][0] != tag]
        for name, data in self._objects.read_all(new):
            if note := Note.read(data):
                self._known.noted(notes[name], note)
        for name in held.keys() - notes.keys():
            del held[name]
        return listed

    def _resume_output(self, name: str, what: Unsent) -> None:
        here = self._folder / name
        kept = here.is_file() and self._hashes.sha256(here) == what.sha256
        if kept and self.sha256(name) != what.sha256 and self._there.get(name) == what.base:
            self._send_output(name, what.sha256)
        self._known.forget(name)

    def _resume_state(self, name: str, what: Unsent, listed: dict[str, str]) -> None:
        """A record or the marks: where another machine wrote its own since, that counts."""
        here = self._folder / name
        if here.is_file() and listed.get(name) == what.base:
            listed[name] = self._objects.put(here, name)
            self._known.sent(name, listed[name])
        else:
            self._known.forget(name)

    def _fetch(self, listed: dict[str, str]) -> None:
        """Have the records and marks that differ from what was last seen."""
        wanted = [
            name
            for name, tag in listed.items()
            if (name.startswith(RECORDS) or name == MARKS)
            and not (self._known.fetched.get(name) == tag and (self._folder / name).is_file())
        ]
        for name, data in self._objects.read_all(wanted):
            path = self._folder / name
            part = path.with_name(f"{TEMPORARY}{uuid4().hex}")
            part.write_bytes(data)
            part.replace(path)
            self._known.sent(name, listed[name])

    def _fetch_previews(self, records: Iterable[Record]) -> None:
        """The previews that a report of these images needs and that are there; of those that aren't, the outputs."""
        needed = {f"{THUMBS}{name_of(one.output.sha256)}": one.output.path for one in records if one.output}
        for preview, output in needed.items():
            if (self._folder / preview).is_file():
                continue
            if preview in self._thumbs or self._objects.tag(preview):  # a worker may have put it since
                self._thumbs.add(preview)
                self._objects.fetch(preview, self._folder / preview)
            else:
                self.fetch(output)

    def _note(self, name: str) -> Note | None:
        known = self._known.notes.get(note_of(name))
        return known[1] if known else None

    def _send_output(self, name: str, digest: str) -> None:
        """The note first, so that whenever this ends what is there is known to be ours."""
        size, known = (self._folder / name).stat().st_size, self._note(name)
        tag = self._there.get(name)
        before = next((one for one in known.versions if one.tag == tag), None) if known and tag else None
        self._write_note(Note(name, Version(digest, size, None), before))
        self._there[name] = self._objects.put(self._folder / name, name)
        self._write_note(Note(name, Version(digest, size, self._there[name])))
        self._known.forget(name)

    def _write_note(self, note: Note) -> None:
        self._known.noted(self._objects.write(note_of(note.name), json.dumps(note.to_json()).encode()), note)

    def _delete(self, name: str) -> None:
        self._objects.delete(name)
        self._objects.delete(note_of(name))
        del self._there[name]
        self._known.forget(name)
