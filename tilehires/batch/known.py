"""What a machine knows of an object store: what it fetched, what it has yet to put, and what is said of the outputs there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilehires.files import append_line, atomic, read_lines

NOTES = ".tilehires/outputs/"


@dataclass(frozen=True, slots=True)
class Version:
    """The bytes of an output, and the tag that the store has given them; None before it has."""

    sha256: str
    size: int
    tag: str | None


@dataclass(frozen=True, slots=True)
class Note:
    """The small object beside each output that says: this one is ours. Written before the output, and again after it.

    `before`: what the output is, until the new one is there.
    """

    name: str
    now: Version
    before: Version | None = None

    @property
    def versions(self) -> tuple[Version, ...]:
        return (self.now, self.before) if self.before else (self.now,)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Note:
        """Raises KeyError, TypeError or ValueError for what is none."""
        before = body["before"]
        return cls(str(body["name"]), Version(**body["now"]), Version(**before) if before else None)

    @classmethod
    def read(cls, data: bytes) -> Note | None:
        try:
            return cls.from_json(json.loads(data))
        except (ValueError, KeyError, TypeError):
            return None


def note_of(name: str) -> str:
    """The name of an output's note, by hash: an output's own may be longer than a file name."""
    return f"{NOTES}{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True)
class Unsent:
    """What is to be put. `sha256`: of its bytes. `base`: the tag of what it is to replace, None for nothing."""

    sha256: str
    base: str | None


Learned = tuple[str, dict[str, Any]]
"""A note's tag and content."""


class Known:
    """Three tables with a memory on disk: JSON lines, only appended to. A worker appends to a file of its own."""

    def __init__(self, folder: Path, worker: str = "") -> None:
        self._folder, self._worker = folder, worker
        self._path = folder / (f"objects-{worker}.jsonl" if worker else "objects.jsonl")
        self.fetched: dict[str, str] = {}
        """The tags of the records and marks that lie here as they are there."""
        self.unsent: dict[str, Unsent] = {}
        self.notes: dict[str, tuple[str, Note]] = {}
        """By the note's object: its tag, and what it says."""
        self._new: list[Learned] = []

    def load(self, *, join: bool) -> None:
        """Read what this machine's processes wrote. `join`: they have ended; make one file of theirs."""
        main, parts = self._folder / "objects.jsonl", sorted(self._folder.glob("objects-*.jsonl"))
        for path in (main, *parts):
            for line in read_lines(path):
                self._take(line)
        if join:
            with atomic(main) as stream:
                for line in self._lines():
                    stream.write(json.dumps(line).encode() + b"\n")
            for part in parts:
                part.unlink()

    def will_send(self, name: str, what: Unsent) -> None:
        self._add(["unsent", name, what.sha256, what.base])

    def sent(self, name: str, tag: str) -> None:
        """It lies there as it is here; as well where it was fetched."""
        self._add(["same", name, tag])

    def forget(self, name: str) -> None:
        self._add(["gone", name])

    def noted(self, tag: str, note: Note) -> None:
        self._add(["note", tag, note.to_json()])
        if self._worker and note.now.tag:
            self._new.append((tag, note.to_json()))

    def learned(self) -> list[Learned]:
        """The notes on outputs that were put since this was last asked."""
        new, self._new = self._new, []
        return new

    def learn(self, learned: Iterable[Learned]) -> list[Note]:
        """Take over what another process has `learned`."""
        notes = []
        for tag, body in learned:
            self._add(["note", tag, body])
            notes.append(Note.from_json(body))
        return notes

    def _add(self, line: list[Any]) -> None:
        self._take(line)
        append_line(self._path, line, durable=line[0] == "unsent")

    def _take(self, line: Any) -> None:
        match line:
            case ["unsent", str(name), str(digest), str() | None as base]:
                self.unsent[name] = Unsent(digest, base)
            case ["same", str(name), str(tag)]:
                self.fetched[name] = tag
                self.unsent.pop(name, None)
            case ["gone", str(name)]:
                self.fetched.pop(name, None)
                self.unsent.pop(name, None)
            case ["note", str(tag), dict(body)]:
                try:
                    note = Note.from_json(body)
                except (KeyError, TypeError, ValueError):
                    return  # damaged: it is fetched again
                self.notes[note_of(note.name)] = (tag, note)

    def _lines(self) -> Iterable[list[Any]]:
        yield from (["same", name, tag] for name, tag in self.fetched.items())
        yield from (["unsent", name, one.sha256, one.base] for name, one in self.unsent.items())
        yield from (["note", tag, note.to_json()] for tag, note in self.notes.values())
