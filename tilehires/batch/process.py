"""One image through its stages: what is cached is taken, the rest is computed, stored, checked and written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tilehires.batch import ladder
from tilehires.batch.attempts import badness, flagged, tried, why
from tilehires.batch.final import final_file, first_pass_file
from tilehires.batch.job import Job
from tilehires.batch.meter import Meter, Spent
from tilehires.batch.store import Entry, Store, fingerprint
from tilehires.batch.workspace import Workspace
from tilehires.checks import Finding
from tilehires.diffusion import embeddings, lora
from tilehires.errors import ImageError
from tilehires.images import Decoder, Picture
from tilehires.memory import Plan
from tilehires.progress import Silent
from tilehires.records import FileRecord, Record, StageRecord
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.order import hook_keys
from tilehires.stages.regions import output_regions

DECODE_VERSION = 1  # raised when the same file is decoded to other pixels
WRITE_VERSION = 1
_UNTOLD = {"run": {"on_finish", "on_finish_seconds", "local_folder"}}
NAMING = (
    *("generate.prompt", "generate.negative_prompt", "model.loras", "model.lora_folder", "model.embedding_folder"),
    *(f"{step}.{key}" for step in ("hires", "tiled") for key in ("prompt", "prompt_add", "negative_prompt", "loras")),
    "detail.passes",
)
"""The settings that name LoRAs and embeddings."""
NOTHING = np.zeros((0, 0, 3), np.float32)
Attempts = tuple[Mapping[str, Any], ...]


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
    run: str = ""
    """An id that no other run has, where a callback without a key makes its results this run's alone."""


@dataclass(frozen=True)
class Way:
    """A way to make an image: the fingerprints of its stages and of the file, and the first forced stage's number."""

    job: Job
    context: Context
    keys: tuple[str, ...]
    written: str
    forced: int

    def led_to(self, record: Record) -> bool:
        """Whether a finished image was made so."""
        return record.status == "done" and [one.fingerprint for one in record.stages] == [*self.keys, self.written]


def process(job: Job, context: Context) -> Record:
    """Bring one image to its finished file and return its record, also written to the workspace. Raises TilehiresError."""
    begun = begin(job, context)
    return begun if isinstance(begun, Record) else begun()


def begin(
    job: Job, context: Context, *, second: tuple[Job, Context] | None = None, accepted: str = ""
) -> Record | Callable[[], Record]:
    """As `process`, but where no model is needed any more, what is left to do is returned: checks and writing, in any thread.

    `second`: how it is made once more if it is flagged; the better is kept. `accepted`: the hash of the output that a
    reviewer accepted; it is made anew as it was, and never once more.
    """
    workspace = context.workspace
    ways = [_way(*one) for one in ((job, context), second) if one]
    if len(ways) == 2 and ways[0].keys == ways[1].keys:
        del ways[1]  # nothing is repainted, so nothing can be milder
    previous, attempts = workspace.record(job.id), ()
    if previous and previous.output and previous.output.sha256 == accepted:
        held = [way for way in ways if way.led_to(previous)]
        ways, attempts = held or ways, previous.attempts if held else ()
    if previous and ways[0].forced == len(ways[0].keys) and _is_current(previous, ways, attempts, context):
        return replace(previous, cached=True, stages=tuple(replace(s, cached=True) for s in previous.stages))
    for name in (job.found.output, job.before):
        if name:
            workspace.check_ours(name)
    picture = _read(job, context)
    try:
        if len(ways) == 2:
            return partial(_ended, *_better(ways, picture), picture)
        made = _compute(ways[0], ways[0].forced, picture.pixels, judged=False)
    except (lora.MisfitError, embeddings.MisfitError) as error:
        if _says_its_own_words(job):
            raise ImageError(error.message, hint=error.hint) from error
        raise
    return partial(_ended, ways[0], made, attempts, picture)


def advance(job: Job, context: Context, stages: int) -> None:
    """Do the first so many stages of an image, unless they are done; the results wait in the cache. Raises TilehiresError."""
    way = _way(job, context)
    previous = context.workspace.record(job.id)
    done = context.store.peek(way.keys[stages - 1]) or (
        previous and _is_current(previous, [way], previous.attempts, context)
    )
    if not done:
        _compute(way, len(way.keys), _read(job, context).pixels, stages=stages)


def _ended(way: Way, made: _Made, attempts: Attempts, picture: Picture) -> Record:
    """The rest of an image whose pixels are there."""
    while len(made.entries) < len(way.keys):
        made = _judged(way, made)
    record = _finished(way, made, attempts, picture)
    way.context.workspace.write_record(record)
    return record


def _way(job: Job, context: Context) -> Way:
    known = context.environment if job.config.settings.run.deterministic else None
    hashes = {str(path): context.workspace.hashes.sha256(path) for stage in job.stages for path in stage.models}
    # All of a prompt is in the settings of its first stage.
    keys, parent = [], "prompt" if job.found.prompt else f"{job.sha256}/{DECODE_VERSION}"
    for stage in job.stages:
        hooks = hook_keys(stage, context.tools.callbacks, job.id, context.run)
        parent = fingerprint(stage, parent, hashes, known, hooks)
        keys.append(parent)
    forced = next((i for i, s in enumerate(job.stages) if s.name in context.force), len(keys))
    return Way(job, context, tuple(keys), _write_key(job, keys[-1]), forced)


def _better(ways: Sequence[Way], picture: Picture) -> tuple[Way, _Made, Attempts]:
    """The first of two ways where it isn't flagged, else the better of both; and what is recorded of the two."""
    first = _compute(ways[0], ways[0].forced, picture.pixels)
    if not flagged(first.findings):
        return ways[0], first, ()
    ways[0].context.tools.progress.note(f"{ways[0].job.id}: flagged; it is made once more, milder.")
    first = replace(first, image=StageResult(NOTHING))  # one canvas at a time; the cache has it
    second = _compute(ways[1], ways[1].forced, picture.pixels)
    both = (first, second)
    scores = [badness(made.findings, made.score) for made in both]
    kept = int(scores[1] < scores[0])
    if not kept:
        both = (replace(first, image=_compute(ways[0], len(ways[0].keys), picture.pixels).image), second)
    reason = why(scores[kept], scores[1 - kept], scored=first.score is not None)
    told = tuple(
        {
            **tried(way.job, ways[0].job, made.findings, made.score, way.keys[-1]),
            "kept": i == kept,
            "why": reason if i == kept else "",
        }
        for i, (way, made) in enumerate(zip(ways, both, strict=True))
    )
    return ways[kept], both[kept], told


def _finished(way: Way, made: _Made, attempts: Attempts, picture: Picture) -> Record:
    """Write the file, or files, of an image; its record."""
    job = way.job
    started = time.monotonic()
    before = first_pass_file(job, made.first, way.context.workspace, way.context.models) if job.before else None
    output, notes = final_file(job, picture, made.pixels, made.findings, way.context.workspace, way.context.models)
    stages = [
        StageRecord(stage.name, key, spent.seconds, spent.cached, {**entry.facts, **spent.facts}, entry.environment)
        for stage, key, entry, spent in zip(job.stages, way.keys, made.entries, made.spendings, strict=True)
    ]
    stages.append(StageRecord("write", way.written, time.monotonic() - started, False, {}, {}))
    return Record(
        id=job.id,
        input=None if job.found.prompt else FileRecord(job.id, (job.size.width, job.size.height), job.sha256),
        output=output,
        status="done",
        seed=job.seed,
        settings=described(job),
        stages=tuple(stages),
        findings=made.findings,
        score=made.score,
        attempts=attempts,
        regions=tuple(
            region
            for stage, entry in zip(job.stages, made.entries, strict=True)
            if job.route.steps
            for region in output_regions(entry.facts, stage.name, job.route)
        ),
        notes=(*picture.notes, *job.config.notes, *notes),
        before=before,
    )


def _says_its_own_words(job: Job) -> bool:
    """Whether prompts or LoRAs were named for this image alone: what of them can't be used is then no other's fault."""
    return any(job.config.origins[name].startswith(("sidecar ", "prompt", "--vary ")) for name in NAMING)


def _read(job: Job, context: Context) -> Picture:
    """The image; of a prompt an empty picture. Raises ImageError."""
    if job.found.prompt:
        return Picture(NOTHING)
    picture = context.decoder.read(job.found.path, max_pixels=job.config.settings.run.max_pixels)
    if context.workspace.hashes.sha256(job.found.path) != job.sha256:
        raise ImageError(
            f"{job.found.path} changed while it was read.", hint="Run it again when it is written completely."
        )
    return picture


def described(job: Job) -> dict[str, Any]:
    """The image's settings with their origins, as in report.json; not whom to tell, which may be a secret address."""
    return {
        f"{section}.{key}": {"value": value, "origin": job.config.origins[f"{section}.{key}"]}
        for section, values in job.config.settings.model_dump(mode="json", exclude=_UNTOLD).items()
        for key, value in values.items()
    }


@dataclass(frozen=True)
class _Made:
    """What the stages done so far gave: the last one's result, the `first` pixels (the input's, or a first pass's), what each
    said and took.
    """

    image: StageResult
    first: np.ndarray
    entries: list[Entry]
    spendings: list[Spent]

    @property
    def pixels(self) -> np.ndarray:
        return self.image.pixels

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for entry in self.entries for finding in entry.findings)

    @property
    def score(self) -> float | None:
        return next((entry.facts["score"] for entry in self.entries if "score" in entry.facts), None)


def _compute(way: Way, forced: int, pixels: np.ndarray, *, judged: bool = True, stages: int | None = None) -> _Made:
    """Pass `pixels`, the input's, through the stages; what is cached before stage number `forced` is taken from there.

    Without `judged`, as far as models are needed; with `stages`, so many of them.
    """
    made, ahead = _from_cache(way, forced, pixels), way.job.stages[:stages]
    while len(made.entries) < len(ahead):
        if not judged and not any(stage.makes_pixels or stage.models for stage in ahead[len(made.entries) :]):
            break
        way.context.ask()
        made = _next(way, made)
    return made


def _from_cache(way: Way, forced: int, pixels: np.ndarray) -> _Made:
    job, keys, context = way.job, way.keys, way.context
    store, progress = context.store, context.tools.progress
    cached = [store.peek(key) for key in keys]
    start = min(forced, next((i for i, entry in enumerate(cached) if entry is None), len(keys)))
    image, first = StageResult(pixels), pixels
    if job.found.prompt and start > 0:
        kept = store.pixels(keys[0], cached[0], progress) if cached[0] else None
        start, first = (0, pixels) if kept is None else (start, kept)
    while start > 0:
        # The pixels that enter stage `start` come from the last stage before it that made any.
        last = max((i for i in range(start) if job.stages[i].makes_pixels), default=None)
        if last is None:
            break
        entry = cached[last]
        found = store.result(keys[last], entry, progress) if entry else None
        if found is not None:
            image = found
            break
        start = last
    return _Made(image, first, [entry for entry in cached[:start] if entry], [Spent()] * start)


def _next(way: Way, made: _Made) -> _Made:
    """One stage further."""
    job, context, number = way.job, way.context, len(made.entries)
    meter = Meter(context.tools.bay.device)
    result, plan = ladder.run(
        job.stages[number],
        made.image,
        _source(job, made),
        partial(_tools_for, context, way.keys[number], job.config.settings.run.step_checkpoint),
        context.tools.plan,
        same_bytes=job.config.settings.run.deterministic,
    )
    return _stored(way, made, result, _environment(context, plan), meter)


def _judged(way: Way, made: _Made) -> _Made:
    """One stage further, which uses no model: another image may have them at the same time."""
    context, stage = way.context, way.job.stages[len(made.entries)]
    meter = Meter(torch.device("cpu"))
    try:
        result = stage.run(made.image, _source(way.job, made), replace(context.tools, progress=Silent()))
    except MemoryError as error:
        raise ImageError(
            f"{stage.name}: the computer's memory ran out.",
            hint="Close what else runs; the same command goes on from here.",
        ) from error
    return _stored(way, made, result, _environment(context, context.tools.plan), meter)


def _source(job: Job, made: _Made) -> Source:
    names = [stage.name for stage in job.stages]
    return Source(made.first, dict(zip(names, (entry.facts for entry in made.entries), strict=False)))


def _stored(way: Way, made: _Made, result: StageResult, environment: Mapping[str, Any], meter: Meter) -> _Made:
    number = len(made.entries)
    image = way.context.store.put(way.keys[number], way.job.stages[number], result, environment)
    entry = Entry(None, image.facts, image.findings, environment)
    first = image.pixels if number == 0 and way.job.found.prompt else made.first
    return _Made(image, first, [*made.entries, entry], [*made.spendings, meter.read()])


def _environment(context: Context, plan: Plan) -> dict[str, Any]:
    return {**context.environment, "tile_batch": plan.tile_batch, "region_batch": plan.region_batch}


def _tools_for(context: Context, key: str, every: float, plan: Plan, smaller: bool) -> Tools:
    """The tools of one attempt at a stage; what an attempt kept of a pass counts for one of the same batch and tiles only."""
    steps = None if smaller else context.store.steps(key, _environment(context, plan), every)
    return replace(context.tools, plan=plan, resume=steps)


def _write_key(job: Job, parent: str) -> str:
    """Identity of the final file's bytes: the last stage's, and how it is written."""
    run = job.config.settings.run
    how = f"{WRITE_VERSION}-{run.format}-{run.quality}-{run.bits}-{int(run.metadata)}"
    return f"{parent[:32]}-{how}-{job.found.output}" + (f"-{job.before}" if job.before else "")


def _is_current(previous: Record, ways: Sequence[Way], attempts: Attempts, context: Context) -> bool:
    """Whether the record is what these ways lead to, and the files it made still stand as they were."""
    if previous.output is None or not any(way.led_to(previous) for way in ways):
        return False
    if len(ways) == 1:
        told = previous.attempts == attempts
    elif previous.attempts:
        told = [one["fingerprint"] for one in previous.attempts] == [way.keys[-1] for way in ways]
    else:
        told = ways[0].led_to(previous) and not flagged(previous.findings)
    return told and all(context.workspace.stands(file) for file in (previous.output, previous.before) if file)
