"""The stage cache: artefact first, record second; a record's existence is completion.

Pixels lie on disk as 16-bit arrays (memory-mapped `.npy`). A stage that was just computed is read back as well, so that the next
one gets the same numbers as after a restart, and an interrupted run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from tilehires.checks.finding import Finding
from tilehires.diffusion.resume import StepFile
from tilehires.files import atomic, write_json
from tilehires.geometry import Box
from tilehires.progress import Progress
from tilehires.scratch import Scratch
from tilehires.stages import Stage, StageResult

LEVELS = 65535
ROWS = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """The record of one stored result; `crc32` of its 16-bit pixels, None when the stage made none."""

    crc32: int | None
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    environment: Mapping[str, Any]
    latents_crc32: int | None = None
    """None: it has no latents."""


def fingerprint(
    stage: Stage,
    parent: str,
    hashes: Mapping[str, str],
    environment: Mapping[str, Any] | None,
    hooks: Sequence[Sequence[str]] = (),
) -> str:
    """The identity of a stage's result, from everything that shapes it. `parent`: the stage's before it, or the input's hash.

    `environment` is given only under --deterministic: upgrading torch must not redo a finished night. `hooks`: of the
    callbacks that the stage asks (stages.order.hook_keys).
    """
    body = {
        "stage": stage.name,
        "version": stage.version,
        "parent": parent,
        "settings": stage.settings.model_dump(mode="json"),
        "models": sorted(hashes[str(path)] for path in stage.models),
        "environment": environment,
        **({"hooks": hooks} if hooks else {}),
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Store:
    """Stage results under one folder, by fingerprint."""

    def __init__(self, folder: Path, limit: int, scratch: Scratch | None = None) -> None:
        """`limit`: bytes the artefacts may take together. `scratch`: where large pictures that were read lie."""
        self._folder = folder
        self._limit = limit
        self._scratch = scratch or Scratch()
        self._total: int | None = None  # of the artefacts, in bytes, once they were looked through
        self._stored = 0
        self._unlooked = 0  # bytes put here since the artefacts were looked through

    def peek(self, key: str) -> Entry | None:
        """What is recorded of a result, without its pixels; None when there is no readable record."""
        try:
            body = json.loads(self._record(key).read_text(encoding="utf-8"))
            findings = tuple(Finding(**{**f, "box": Box(*f["box"]) if f["box"] else None}) for f in body["findings"])
            return Entry(body["crc32"], body["facts"], findings, body["environment"], body.get("latents_crc32"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def pixels(self, key: str, entry: Entry, progress: Progress) -> np.ndarray | None:
        """The stored pixels, float32 HWC in [0, 1]; None when they were dropped, or are damaged, which is noted."""
        path = self._artefact(key)
        if not path.is_file():
            return None
        try:
            os.utime(path)  # what is needed now is dropped last, also where another process trims
            levels = np.lib.format.open_memmap(path, mode="r")
            if levels.dtype == np.uint16 and levels.ndim == 3 and zlib.crc32(levels.data) == entry.crc32:
                pixels = self._scratch.zeros(levels.shape)
                for rows in _strips(levels.shape):
                    pixels[rows] = restored(levels[rows])
                return pixels
        except (OSError, ValueError, BufferError):
            pass  # as damaged as a wrong checksum, and said in the same words
        progress.note(f"A cached result is damaged and is made again: {path.name}.")
        return None

    def result(self, key: str, entry: Entry, progress: Progress) -> StageResult | None:
        """What enters the next stage: the pixels, and the latents where there are any. None as `pixels`."""
        pixels = self.pixels(key, entry, progress)
        if pixels is None or entry.latents_crc32 is None:
            return None if pixels is None else StageResult(pixels)
        path = self._latents(key)
        try:
            kept = np.lib.format.open_memmap(path, mode="r")
            if kept.dtype == np.float32 and zlib.crc32(kept.data) == entry.latents_crc32:
                return StageResult(pixels, latents=torch.from_numpy(np.array(kept)))
        except FileNotFoundError:
            return None  # dropped
        except (OSError, ValueError, BufferError):
            pass  # as in `pixels`
        progress.note(f"A cached result is damaged and is made again: {path.name}.")
        return None

    def put(self, key: str, stage: Stage, result: StageResult, environment: Mapping[str, Any]) -> StageResult:
        """Store a result, and return it as a later run would read it."""
        crc: int | None = None
        latents_crc: int | None = None
        if stage.makes_pixels:
            with atomic(self._artefact(key)) as stream:
                crc, pixels = self._write(stream, result.pixels)
                size = stream.tell()
            if result.latents is not None:
                values = np.ascontiguousarray(result.latents.numpy(), np.float32)
                latents_crc = zlib.crc32(values.data)
                with atomic(self._latents(key)) as stream:
                    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
                    stream.write(values.data)
                    size += stream.tell()
            result = replace(result, pixels=pixels)
            self._stored += size
            self._unlooked += size
            self.grew(size)
        findings = [{**asdict(f), "box": f.box.as_list() if f.box else None} for f in result.findings]
        body = {
            "stage": stage.name,
            "crc32": crc,
            "latents_crc32": latents_crc,
            "facts": dict(result.facts),
            "findings": findings,
            "environment": dict(environment),
        }
        write_json(self._record(key), body)
        self._steps(key).unlink(missing_ok=True)
        # What a reader of the record gets: tuples have become lists, for instance.
        return replace(result, facts=json.loads(json.dumps(body["facts"])))

    def _write(self, stream: IO[bytes], pixels: np.ndarray) -> tuple[int, np.ndarray]:
        """Write pixels as 16 bits; returns their checksum, and what a reader gets back."""
        shape = pixels.shape
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        kept, crc = self._scratch.zeros(shape), 0
        for rows in _strips(shape):
            levels = quantised(pixels[rows])
            crc = zlib.crc32(levels.data, crc)
            stream.write(levels.data)  # numpy's own writing doesn't say that the disk is full
            kept[rows] = restored(levels)
        return crc, kept

    def steps(self, key: str, environment: Mapping[str, Any], every: float) -> StepFile:
        """Where the stage that will be stored under `key` keeps the state of its pass; `every` seconds, as StepFile.

        Such a state is only taken up in the environment it was made in: across two, equal bytes aren't promised.
        """
        plan = json.dumps([key, dict(environment)], sort_keys=True, default=str)
        return StepFile(self._steps(key), plan, every)

    def stored(self) -> int:
        """Bytes of artefacts that were put since this was last asked."""
        stored, self._stored = self._stored, 0
        return stored

    def grew(self, size: int) -> None:
        """Count `size` bytes of artefacts, which another process put."""
        if self._total is not None:
            self._total += size

    def trim(self, *, alone: bool = True) -> None:
        """Drop the oldest artefacts until the rest is within the limit. Their records stay: they are small, and tell.

        Not `alone`: other processes put as well, and don't tell; a tenth of the limit is put here before theirs is seen.
        """
        if not alone and self._unlooked * 10 > self._limit:
            self._total = None
        if self._total is not None and self._total <= self._limit:
            return  # looking through ten thousand files after each of ten thousand images would take the night
        files = [(status.st_mtime_ns, status.st_size, path) for path, status in self._artefacts()]
        self._total, self._unlooked = sum(size for _, size, _ in files), 0
        for _, size, path in sorted(files):
            if self._total <= self._limit:
                return
            path.unlink(missing_ok=True)
            self._total -= size

    def _artefacts(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in (path for kind in ("npy", "steps") for path in self._folder.glob(f"*/*.{kind}")):
            with contextlib.suppress(FileNotFoundError):  # a worker's pass has ended, and its steps are gone
                found.append((path, path.stat()))
        return found

    def _artefact(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npy"

    def _latents(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.latents.npy"

    def _steps(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.steps"

    def _record(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows to be worked on at a time, so that a large picture needs no second copy."""
    return (slice(top, top + ROWS) for top in range(0, shape[0], ROWS))


def quantised(pixels: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] to 16 bits; NaN becomes 0 (the stage that met it has said so in its findings)."""
    levels = np.nan_to_num(pixels, nan=0.0, posinf=1.0, neginf=0.0)
    return np.ascontiguousarray((np.clip(levels, 0, 1) * LEVELS + 0.5).astype(np.uint16))


def restored(levels: np.ndarray) -> np.ndarray:
    """16 bits back to float32 in [0, 1]."""
    return levels.astype(np.float32) / np.float32(LEVELS)
