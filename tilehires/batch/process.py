"""One image through its stages: what is cached is taken, the rest is computed, stored, checked and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tilehires import metadata
from tilehires.batch import ladder
from tilehires.batch.job import Job
from tilehires.batch.meter import Meter, Spent
from tilehires.batch.store import Entry, Store, fingerprint
from tilehires.batch.workspace import Workspace
from tilehires.errors import ImageError
from tilehires.images import Decoder, Picture, write
from tilehires.memory import Plan
from tilehires.records import FileRecord, Record, StageRecord
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.alpha import resized_alpha
from tilehires.stages.detail import output_regions

DECODE_VERSION = 1  # raised when the same file is decoded to other pixels
WRITE_VERSION = 1


@dataclass(frozen=True)
class Context:
    """What all images of a run share."""

    workspace: Workspace
    store: Store
    tools: Tools
    environment: Mapping[str, Any]
    force: frozenset[str]
    models: Mapping[str, str]
    """Names of the models in use, and their hashes, for the outputs' metadata."""
    decoder: Decoder
    ask: Callable[[], None] = lambda: None
    """Called before each stage; raises Interrupted when the run is to end there."""


def process(job: Job, context: Context) -> Record:
    """Bring one image to its finished file and return its record, also written to the workspace. Raises TilehiresError."""
    workspace = context.workspace
    settings = job.config.settings
    known = context.environment if settings.run.deterministic else None
    hashes = {str(path): workspace.hashes.sha256(path) for stage in job.stages for path in stage.models}
    keys, parent = [], f"{job.sha256}/{DECODE_VERSION}"
    for stage in job.stages:
        parent = fingerprint(stage, parent, hashes, known)
        keys.append(parent)
    written = _write_key(job, keys[-1])
    forced = next((i for i, s in enumerate(job.stages) if s.name in context.force), len(keys))
    previous = workspace.record(job.id)
    if previous and forced == len(keys) and _is_current(previous, [*keys, written], context):
        return replace(previous, cached=True, stages=tuple(replace(s, cached=True) for s in previous.stages))
    workspace.check_ours(job.found.output)
    picture = context.decoder.read(job.found.path, max_pixels=settings.run.max_pixels)
    if workspace.hashes.sha256(job.found.path) != job.sha256:
        raise ImageError(
            f"{job.found.path} changed while it was read.", hint="Run it again when it is written completely."
        )
    pixels, entries, spendings = _compute(job, keys, forced, picture, context)
    started = time.monotonic()
    output, notes = _write(job, picture, pixels, entries, context)
    stages = [
        StageRecord(stage.name, key, spent.seconds, spent.cached, {**entry.facts, **spent.facts}, entry.environment)
        for stage, key, entry, spent in zip(job.stages, keys, entries, spendings, strict=True)
    ]
    stages.append(StageRecord("write", written, time.monotonic() - started, False, {}, {}))
    record = Record(
        id=job.id,
        input=FileRecord(job.id, (job.probe.size.width, job.probe.size.height), job.sha256),
        output=output,
        status="done",
        seed=job.seed,
        settings=described(job),
        stages=tuple(stages),
        findings=tuple(finding for entry in entries for finding in entry.findings),
        score=next((entry.facts["score"] for entry in entries if "score" in entry.facts), None),
        regions=tuple(
            region
            for stage, entry in zip(job.stages, entries, strict=True)
            for region in output_regions(entry.facts, stage.name, job.route)
        ),
        notes=(*picture.notes, *job.config.notes, *notes),
    )
    workspace.write_record(record)
    return record


def described(job: Job) -> dict[str, Any]:
    """The image's settings with their origins, as in report.json."""
    return {
        f"{section}.{key}": {"value": value, "origin": job.config.origins[f"{section}.{key}"]}
        for section, values in job.config.settings.model_dump(mode="json").items()
        for key, value in values.items()
    }


def _compute(
    job: Job, keys: Sequence[str], forced: int, picture: Picture, context: Context
) -> tuple[np.ndarray, list[Entry], list[Spent]]:
    """(final pixels, what each stage said, what each took)."""
    store, progress = context.store, context.tools.progress
    cached = [store.peek(key) for key in keys]
    start = min(forced, next((i for i, entry in enumerate(cached) if entry is None), len(keys)))
    image = StageResult(picture.pixels)
    while start > 0:
        # The pixels that enter stage `start` come from the last stage before it that made any.
        last = max((i for i in range(start) if job.stages[i].makes_pixels), default=None)
        if last is None:
            break
        entry = cached[last]
        pixels = store.pixels(keys[last], entry, progress) if entry else None
        if pixels is not None:
            image = StageResult(pixels)
            break
        start = last
    entries: list[Entry] = [entry for entry in cached[:start] if entry]
    spendings = [Spent()] * start
    for stage, key in zip(job.stages[start:], keys[start:], strict=True):
        context.ask()
        names = [earlier.name for earlier in job.stages]
        source = Source(picture.pixels, dict(zip(names, (entry.facts for entry in entries), strict=False)))
        meter = Meter(context.tools.bay.device)
        made, plan = ladder.run(
            stage,
            image,
            source,
            partial(_tools_for, context, key, job.config.settings.run.step_checkpoint),
            context.tools.plan,
            same_bytes=job.config.settings.run.deterministic,
        )
        environment = _environment(context, plan)
        image = store.put(key, stage, made, environment)
        entries.append(Entry(None, image.facts, image.findings, environment))
        spendings.append(meter.read())
    return image.pixels, entries, spendings


def _environment(context: Context, plan: Plan) -> dict[str, Any]:
    return {**context.environment, "tile_batch": plan.tile_batch}


def _tools_for(context: Context, key: str, every: float, plan: Plan, smaller: bool) -> Tools:
    """The tools of one attempt at a stage; what an attempt kept of a pass counts for one of the same batch and tiles only."""
    steps = None if smaller else context.store.steps(key, _environment(context, plan), every)
    return replace(context.tools, plan=plan, resume=steps)


def _write_key(job: Job, parent: str) -> str:
    """Identity of the final file's bytes: the last stage's, and how it is written."""
    run = job.config.settings.run
    return f"{parent[:32]}-{WRITE_VERSION}-{run.format}-{run.quality}-{run.bits}-{int(run.metadata)}-{job.found.output}"


def _is_current(previous: Record, keys: Sequence[str], context: Context) -> bool:
    """Whether the record tells of just these stages, and the file it made still stands as it was."""
    if previous.status != "done" or previous.output is None or [s.fingerprint for s in previous.stages] != list(keys):
        return False
    final = context.workspace.output / previous.output.path
    return final.is_file() and context.workspace.hashes.sha256(final) == previous.output.sha256


def _write(
    job: Job, picture: Picture, pixels: np.ndarray, entries: Sequence[Entry], context: Context
) -> tuple[FileRecord, tuple[str, ...]]:
    """Write the final file; returns its record, and notes on what its format couldn't hold."""
    run = job.config.settings.run
    findings = [finding for entry in entries for finding in entry.findings]
    texts: Mapping[str, str] = {}
    if run.metadata:
        texts = metadata.texts_for(
            picture.texts,
            job.config.settings,
            job.seed,
            findings,
            size=picture.size,
            origins=job.config.origins,
            models=context.models,
        )
    finished = replace(
        picture,
        pixels=pixels,
        alpha=resized_alpha(picture.alpha, job.route),
        texts=texts,
        exif=picture.exif if run.metadata else None,
        xmp=picture.xmp if run.metadata else None,
        iptc=picture.iptc if run.metadata else None,
    )
    staged = context.workspace.staging / f"output.{run.format}"
    try:
        notes = write(staged, finished, format=run.format, quality=run.quality, bits=run.bits)
        digest = context.workspace.publish(staged, job.found.output)
    finally:
        staged.unlink(missing_ok=True)  # it is there only when the image failed
    return FileRecord(job.found.output, (pixels.shape[1], pixels.shape[0]), digest), notes
