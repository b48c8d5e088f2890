"""A reviewer's word on finished images: accept, redo, discard. Read from the file that the report page saves, and kept.

What a mark changed stays so: a redone image has a seed, and perhaps settings, of its own, which later runs use as well.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote_to_bytes

from tilehires.batch.workspace import DISCARDED, Workspace
from tilehires.config import Config
from tilehires.config.layers import Rank
from tilehires.errors import ConfigError
from tilehires.files import write_json
from tilehires.records import Record, empty_record

Verdict = Literal["accept", "redo", "discard"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One image's, by its id. `sha256`: the output that was looked at, "" where there was none."""

    id: str
    verdict: Verdict
    sha256: str = ""


@dataclass(frozen=True)
class Kept:
    """What a mark left behind. `due`: still to be redone. `values`: settings of this image since it was redone."""

    verdict: Verdict
    sha256: str = ""
    due: bool = False
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_marks(path: Path) -> tuple[Mark, ...]:
    """The marks of a file that the page saved. Raises ConfigError when it isn't one."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("mark", [])
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", hint="Save it from the report page.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no file of marks: {error}.", hint="Save it from the report page.") from error
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path} holds no marks.", hint="Mark images on the report page, and save the marks there.")
    return tuple(_mark(path, row) for row in rows)


def _mark(path: Path, row: Any) -> Mark:
    hint = f'A mark has id = "…" and verdict = "…", one of {", ".join(get_args(Verdict))}.'
    if not isinstance(row, dict) or row.get("verdict") not in get_args(Verdict):
        raise ConfigError(f"{path} has a mark without a verdict: {row!r}.", hint=hint)
    name, quoted, digest = row.get("id"), row.get("quoted"), row.get("sha256", "")
    if isinstance(quoted, str):  # a file name that isn't text, as the page's links have it
        name = os.fsdecode(unquote_to_bytes(quoted))
    if not isinstance(name, str) or not isinstance(digest, str):
        raise ConfigError(f"{path} has a mark that names no image: {row!r}.", hint=hint)
    return Mark(name, row["verdict"], digest)


class Marks:
    """All that is kept about an output folder's images, in one JSON file."""

    def __init__(self, path: Path, write: Callable[[Path, Any], None] = write_json) -> None:
        self._path, self._write_json = path, write
        self._kept: dict[str, Kept] = {}
        try:
            for name, body in json.loads(path.read_text(encoding="utf-8")).items():
                self._kept[name] = Kept(**body)
        except FileNotFoundError:
            pass  # nobody has marked anything yet
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{path} can't be read ({error}): which images were redone or discarded isn't known.",
                hint="Restore the file, or remove it to start from the settings alone.",
            ) from error

    def apply(self, marks: Iterable[Mark], records: Mapping[str, Record], config: Config) -> list[str]:
        """Take over marks; returns notes on those that are out of date.

        A redo gets the next seed after the record's, unless the command line of this run names one; whatever else the
        command line sets belongs to the redone images from now on.
        """
        notes, given = [], _flags(config)
        for mark in marks:
            record = records.get(mark.id)
            if record is None:
                notes.append(f"{mark.id}: marked {mark.verdict}, but there is no such image here.")
                continue
            now = record.output.sha256 if record.output else ""
            if mark.sha256 != now:
                notes.append(f"{mark.id}: was made anew since it was marked {mark.verdict}; the mark is left out.")
                continue
            before = self._kept.get(mark.id, Kept(mark.verdict))
            if mark.verdict == "redo":
                seed = {} if "seed" in given.get("generate", {}) or record.seed is None else {"seed": record.seed + 1}
                self._kept[mark.id] = Kept("redo", now, True, _joined(before.values, given, {"generate": seed}))
            else:
                self._kept[mark.id] = replace(before, verdict=mark.verdict, sha256=now, due=False)
        self._write()
        return notes

    def review(self, marks: Sequence[Mark], workspace: Workspace, config: Config, note: Callable[[str], None]) -> None:
        """Take over a reviewer's marks, if there are any. What was discarded moves aside; nothing is deleted."""
        if not marks:
            return
        known = {mark.id: workspace.record(mark.id) for mark in marks}
        records = {name: record for name, record in known.items() if record}
        for said in self.apply(marks, records, config):
            note(said)
        for name in self.discarded & records.keys():
            if output := records[name].output:
                workspace.set_aside(output.path)

    @property
    def due(self) -> frozenset[str]:
        """The images that are to be redone."""
        return frozenset(name for name, kept in self._kept.items() if kept.due)

    @property
    def discarded(self) -> frozenset[str]:
        return frozenset(name for name, kept in self._kept.items() if kept.verdict == "discard")

    def left(self, image: str, workspace: Workspace) -> Record | None:
        """The record of an image that was discarded: it is left alone, and its output shown from where it lies."""
        if image not in self.discarded:
            return None
        note = "Discarded in review. Its output is in review/discarded; mark it redo to have it made again."
        known = workspace.record(image)
        if known is None or known.output is None:
            return empty_record(image, "skipped", notes=(note,))
        output = replace(known.output, path=f"{DISCARDED}/{known.output.path}")
        return replace(known, output=output, status="skipped", notes=(note,), review="discarded")

    def config(self, image: str, config: Config) -> Config:
        """The run's settings with what belongs to that image since it was redone, below the command line's."""
        kept = self._kept.get(image)
        if kept is None or not kept.values:
            return config
        return config.with_layer(kept.values, "redone after review", Rank.SIDECAR)

    def key(self, image: str) -> str:
        """One text for what a review has changed about the making of that image."""
        kept = self._kept.get(image)
        return json.dumps([kept.due, kept.values], sort_keys=True) if kept else ""

    def reviewed(self, record: Record) -> Record:
        """The record with its review, where it is of just that output."""
        accepted = record.output and self.accepted(record.id) == record.output.sha256
        return replace(record, review="accepted") if accepted else record

    def accepted(self, image: str) -> str:
        """The hash of the output that was accepted; "" where none was."""
        kept = self._kept.get(image)
        return kept.sha256 if kept and kept.verdict == "accept" else ""

    def finished(self, image: str) -> None:
        """A redo is done."""
        if (kept := self._kept.get(image)) and kept.due:
            self._kept[image] = replace(kept, due=False)
            self._write()

    def _write(self) -> None:
        self._write_json(self._path, {name: asdict(kept) for name, kept in self._kept.items()})


def _flags(config: Config) -> dict[str, dict[str, Any]]:
    """What the command line sets that shapes single images."""
    from tilehires.batch.job import RUN_WIDE

    layers = [layer.values for layer in config.layers if layer.rank is Rank.FLAG]
    joined = _joined(*layers)
    return {
        section: kept
        for section, values in joined.items()
        if (kept := {key: value for key, value in values.items() if f"{section}.{key}" not in RUN_WIDE})
    }


def _joined(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            merged.setdefault(section, {}).update(values)
    return merged
