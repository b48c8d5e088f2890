"""Which images are finished, told by `stat` alone: a second run over a folder of ten thousand opens none of them.

One file of JSON lines holds the record of each finished image beside what it depends on: size, mtime and inode of its
input, its sidecars and its output, the hashes of its models, and a key of all else (settings, code, model folders). Where
anything differs, or a line is damaged, the image goes the long way over its fingerprints, and is as finished as before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilehires import detectors
from tilehires.batch.discover import Found
from tilehires.batch.hashes import stamp
from tilehires.batch.setup import Setup
from tilehires.batch.workspace import Workspace
from tilehires.files import append_line, atomic, read_lines
from tilehires.records import Record

FORMAT = 1
SLACK = 1000  # lines out of date before the file is written anew
Stamps = list[list[Any]]


class Finished:
    """The finished images of one output folder, as one run's settings see them."""

    def __init__(self, workspace: Workspace, key: str) -> None:
        """`key`: what all images of the run depend on (`run_key`)."""
        self._workspace, self._path, self._key = workspace, workspace.finished, f"{FORMAT}/{key}"
        self._known: dict[str, tuple[str, Stamps, Mapping[str, str], Record]] = {}
        self._shared: dict[str, Any] = {}
        self._bases: set[str] = set()
        self._models: dict[str, str | None] = {}
        self._begun: dict[str, Stamps] = {}
        self._read()

    def find(self, image: Found, own: str = "") -> Record | None:
        """The record of an image that is finished as this run would finish it; None when only the long way can tell.

        `own`: what this image alone depends on beside its files.
        """
        before = self._begun[image.id] = stamps_of(image)
        line = self._known.get(image.id)
        if line is None or any(path.suffix == ".toml" for path in image.sidecars):  # which may name other folders
            return None
        key, stamps, models, record = line
        if key != self._key_of(own) or stamps != [*before, self._made(image)]:
            return None
        if any(self._hash(path) != digest for path, digest in models.items()):
            return None
        del self._begun[image.id]
        return replace(record, cached=True, stages=tuple(replace(stage, cached=True) for stage in record.stages))

    def add(self, image: Found, record: Record, models: Mapping[str, str], own: str = "") -> Record:
        """Remember an image that was finished after `find`; returns its record, which shares memory with the others'."""
        record = self._slim(record)
        # As it stood before it was read: a file that changes meanwhile is another one.
        stamps, key = [*self._begun.pop(image.id, []), self._made(image)], self._key_of(own)
        if self._known.get(image.id, ())[:3] == (key, stamps, dict(models)):
            return record
        self._known[image.id] = key, stamps, dict(models), record
        body = record.to_json()
        body["settings"] = self._kept(record.settings)
        append_line(self._path, ["image", key, stamps, dict(models), body])
        return record

    def _read(self) -> None:
        settings: dict[str, Any] = {}
        lines = 0
        for line in read_lines(self._path):
            lines += 1
            match line:
                case ["settings", str(digest), dict(values)]:
                    settings[digest] = self._share_all(values)
                    self._bases.add(digest)
                case ["image", str(key), list(stamps), dict(models), dict(body)]:
                    try:
                        body["settings"] = settings[body["settings"]]
                        record = self._slim(Record.from_json(body))
                    except (KeyError, TypeError, ValueError):
                        continue  # damaged: the long way tells
                    self._known[record.id] = key, stamps, models, record
        if lines > 2 * len(self._known) + len(settings) + SLACK:
            self._compact()

    def _compact(self) -> None:
        self._path.unlink(missing_ok=True)
        self._bases.clear()
        with atomic(self._path) as stream:
            for key, stamps, models, record in self._known.values():
                body = record.to_json()
                digest, text = _digest(record.settings)
                if digest not in self._bases:
                    self._bases.add(digest)
                    stream.write(b'["settings", "' + digest.encode() + b'", ' + text.encode() + b"]\n")
                body["settings"] = digest
                stream.write(json.dumps(["image", key, stamps, models, body]).encode() + b"\n")

    def _kept(self, settings: Mapping[str, Any]) -> str:
        """The name of these settings in the file, which holds each kind of them once."""
        digest, _ = _digest(settings)
        if digest not in self._bases:
            append_line(self._path, ["settings", digest, dict(settings)])
            self._bases.add(digest)
        return digest

    def _slim(self, record: Record) -> Record:
        stages = tuple(replace(one, environment=self._share(one.environment)) for one in record.stages)
        return replace(record, settings=self._share_all(record.settings), stages=stages)

    def _share_all(self, settings: Mapping[str, Any]) -> Any:
        """Equal settings are one object, and those that differ share the entries that don't."""
        digest, _ = _digest(settings)
        if digest not in self._shared:
            self._shared[digest] = {name: self._share({name: entry})[name] for name, entry in settings.items()}
        return self._shared[digest]

    def _share(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._shared.setdefault(json.dumps(value, sort_keys=True), value)

    def _made(self, image: Found) -> list[Any]:
        # A prompt's first pass may be kept as well; where it isn't, its stamp is empty each time.
        kept = self._workspace.stamp(image.before) if image.before else []
        return [image.output, *self._workspace.stamp(image.output), *kept]

    def _key_of(self, own: str) -> str:
        return f"{self._key}/{own}"

    def _hash(self, path: str) -> str | None:
        """The hash of a model file, looked up once a run; None when it is gone."""
        if path not in self._models:
            try:
                self._models[path] = self._workspace.hashes.sha256(Path(path))
            except OSError:
                self._models[path] = None
        return self._models[path]


def run_key(settings: Any, origins: Mapping[str, str], environment: Mapping[str, Any], depends: Iterable[Path]) -> str:
    """One text for all that shapes every image of a run: settings, environment, our own code, and `depends`.

    `depends`: files, and folders in which names of prompts are looked up; by `stat`, and never opened.
    """
    parts = [settings.model_dump(mode="json"), dict(origins), dict(environment)]
    code = Path(__file__).parents[1]
    for top in (code, *depends):
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        parts.append([[str(file), *stamp(file)] for file in files if "__pycache__" not in file.parts])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def stamps_of(image: Found) -> Stamps:
    return [[str(file), *stamp(file)] for file in (image.path, *image.sidecars)]


def _digest(settings: Mapping[str, Any]) -> tuple[str, str]:
    text = json.dumps(settings)
    return hashlib.sha256(text.encode()).hexdigest()[:32], text


def finished_of(setup: Setup, environment: Mapping[str, Any], workspace: Workspace, own: str) -> Finished:
    """What earlier runs finished, as far as it is what this one would make. `own`: what callbacks add to the key."""
    settings = setup.config.settings
    configs = [file for one in setup.checkpoints for file in one.configs]
    named = (*(one.detector for one in settings.detail.passes), settings.check.duplicates_detector or "")
    tomls = [path for one in named if (path := Path(one).expanduser()).is_file()]
    named_folders = (settings.model.lora_folder, settings.model.embedding_folder)
    folders = (*(Path(one).expanduser() for one in named_folders), detectors.FOLDER)
    key = run_key(settings, setup.config.origins, environment, (*configs, *tomls, *folders)) + own
    return Finished(workspace, key)
