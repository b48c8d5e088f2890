"""One image under several settings, side by side: what is equal in all cells is computed once, in the stage cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilehires.batch.determinism import deterministic_algorithms
from tilehires.batch.discover import Found, discover
from tilehires.batch.fence import fenced
from tilehires.batch.job import decoder_of
from tilehires.batch.log import RunLog
from tilehires.batch.maker import Maker, Task, context_of
from tilehires.batch.outcome import relative, versions
from tilehires.batch.patience import time_limit
from tilehires.batch.process import Context, process
from tilehires.batch.setup import Setup, set_up
from tilehires.batch.summary import Summary
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.config.vary import Axis, Cell, cells_of
from tilehires.errors import Interrupted, RunError
from tilehires.files import remove_leftovers, write_json, writing
from tilehires.images import Decoder, suffix_of
from tilehires.progress import BatchProgress, SilentBatch
from tilehires.records import ErrorRecord, Record, empty_record
from tilehires.report.sheet import write_sheet
from tilehires.report.sweep import write_sweep_page

VERSION = 1
"""Of sweep.json (docs/sweep.md)."""


@dataclass(frozen=True)
class Swept:
    """How a sweep ended, and what it left."""

    summary: Summary
    sheet: Path
    page: Path


def sweep(
    config: Config, image: Path, axes: Sequence[Axis], output: Path, *, progress: BatchProgress | None = None
) -> Swept:
    """Do one image once for every combination of `axes`' values, under `output`/sweep-<image name>.

    There: the pictures (cells/), the contact sheet (sheet.png), the page (index.html), and sweep.json. One seed for all,
    unless it is what varies. Raises RunError before any work when a value can't be used, or when `image` is no image; a
    cell that fails is recorded, and the others are made. Interrupted, it returns what was done until then, and the same
    call goes on.
    """
    if not image.is_file():
        raise RunError(
            f"There is no image {image}.", hint="A sweep takes one image: tilehires sweep photo.png --vary …"
        )
    cells = cells_of(config, axes)
    setups = _settled(cells, axes)
    folder = output / f"sweep-{image.stem}"
    source = discover(image, folder, suffix=".png").found[0]
    workspace = Workspace(folder)
    deterministic = deterministic_algorithms(config.settings.run.deterministic)
    with writing(folder), workspace.locked(), deterministic:
        remove_leftovers(folder)
        log = RunLog(workspace.logs)
        try:
            with decoder_of(config) as decoder:
                made = _Sweep(cells, setups, source, workspace, progress or SilentBatch(), log, decoder)
                summary = made.all()
                body = _body(cells, axes, source, summary, setups[0], folder)
                write_json(folder / "sweep.json", body)
                sheet = write_sheet(body, folder, decoder)
                return Swept(summary, sheet, write_sweep_page(body, folder))
        finally:
            log.close()


def _settled(cells: Sequence[Cell], axes: Sequence[Axis]) -> list[Setup]:
    """Each cell's setup, so that what one of them can't use is said before any work."""
    models_vary = any("upscaler" in axis.setting for axis in axes)
    return [set_up(cell.config, load_upscalers=models_vary or not number) for number, cell in enumerate(cells)]


class _Sweep:
    """The state of one sweep: what is done so far, and the models that stay loaded from cell to cell."""

    def __init__(
        self,
        cells: Sequence[Cell],
        setups: Sequence[Setup],
        source: Found,
        workspace: Workspace,
        progress: BatchProgress,
        log: RunLog,
        decoder: Decoder,
    ) -> None:
        self.cells, self.setups, self.source, self.workspace = cells, setups, source, workspace
        self.progress, self.log, self.decoder = progress, log, decoder
        run = cells[0].config.settings.run
        self.limit, self.strict = run.limit, run.strict
        self.context: Context | None = None
        self.records: list[Record] = []

    def all(self) -> Summary:
        """Every cell in turn."""
        interrupted = False
        todo = list(zip(self.cells, self.setups, strict=True))[: self.limit or None]
        self.log.event("sweep", cells=len(todo), image=self.source.id)
        self.progress.begin_batch(len(todo))
        try:
            for cell, setup in todo:
                self._one(cell, setup)
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
        finally:
            self.progress.end_batch()
        left = len(self.cells) - len(self.records)
        return Summary(tuple(self.records), left, interrupted, self.strict)

    def _one(self, cell: Cell, setup: Setup) -> None:
        settings = setup.config.settings.run
        found = replace(self.source, id=cell.name, output=f"cells/{cell.name}{suffix_of(settings.format)}")
        self.progress.begin_image(cell.name)

        def work() -> Record:
            with time_limit(settings.image_time_limit, cell.name):
                self.context = context_of(setup, self.workspace, self.decoder, self.progress, before=self.context)
                maker = Maker(setup, self.context)
                job = maker.job(Task(found, setup.config))
                return process(job, maker.context_for(job))

        made = fenced(work, lambda text: self.log.traceback(cell.name, text), self.workspace.logs)
        if isinstance(made, ErrorRecord):
            self.progress.note(f"{cell.name}: {made.message} {made.hint}".rstrip())
            made = empty_record(cell.name, "failed", error=made, file=False)
            self.workspace.write_record(made)
        self.records.append(made)
        if self.context:
            self.context.store.trim()
        self.log.event("cell", id=cell.name, status=made.status, cached=made.cached)
        self.progress.end_image(cell.name, "cached" if made.cached else made.status)


def _body(
    cells: Sequence[Cell], axes: Sequence[Axis], source: Found, summary: Summary, setup: Setup, folder: Path
) -> dict[str, Any]:
    """sweep.json's content (docs/sweep.md)."""
    records = {record.id: record for record in summary.records}
    known = next((record.input for record in summary.records if record.input), None)
    seconds = _seconds(summary.records)
    names = [axis.setting for axis in axes]
    return {
        "version": VERSION,
        "input": {
            "path": relative(source.path, folder),
            "size": list(known.size) if known else None,
            "sha256": known.sha256 if known else None,
        },
        "axes": [{"setting": name, "values": _along(cells, name)} for name in names],
        "device": str(setup.device),
        "versions": versions(),
        "summary": {**summary.counts(), "left": summary.left},
        "cells": [{"values": dict(cell.values)} | _made(records.get(cell.name), seconds) for cell in cells],
    }


def _made(record: Record | None, seconds: Mapping[str, float]) -> dict[str, Any]:
    """A cell as in report.json, less the input, which all share; `seconds`: of its stages, wherever they were computed."""
    if record is None:
        return {"id": None, "status": "left", "output": None, "error": None, "findings": [], "score": None}
    body = record.to_json()
    for name in ("input", "before", "review"):
        del body[name]
    known = [seconds[stage.fingerprint] for stage in record.stages if stage.fingerprint in seconds]
    # What an earlier sweep left in the cache has no time any more.
    return {**body, "seconds": sum(known) if known and len(known) == len(record.stages) else None}


def _seconds(records: Sequence[Record]) -> dict[str, float]:
    """What each stage took, by its fingerprint, of those that a cell of this sweep computed."""
    return {stage.fingerprint: stage.seconds for one in records for stage in one.stages if stage.seconds > 0}


def _along(cells: Sequence[Cell], name: str) -> list[Any]:
    """The values of a setting, each once, in their order."""
    found: list[Any] = []
    for cell in cells:
        if cell.values[name] not in found:
            found.append(cell.values[name])
    return found
