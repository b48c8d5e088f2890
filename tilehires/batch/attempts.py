"""A second, milder attempt at a flagged image (check.action = "retry"), and which of the two is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, inf
from typing import Any

from tilehires.batch import ladder
from tilehires.batch.job import Job
from tilehires.checks import Finding
from tilehires.config.settings import Settings
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.errors import ConfigError
from tilehires.stages.order import stages_of
from tilehires.stages.redenoise import PassStage

DENOISE = 0.7
OVERLAP = 1.5
ORIGIN = "retry of a flagged image"


def milder(job: Job, checkpoint: Checkpoint) -> Job:
    """The same image with 0.7 of every denoise and 1.5 of the tiles' overlap; the overlap stays where no tile has room.

    The job itself where nothing is repainted.
    """
    settings = job.config.settings
    denoises = (settings.hires.denoise, settings.tiled.denoise, *(one.denoise for one in settings.detail.passes))
    if not any(denoises):
        return job
    values = _lowered(settings)
    overlap = ceil(settings.tiled.overlap * OVERLAP)
    try:
        return _with(job, checkpoint, {**values, "tiled": {**values["tiled"], "overlap": overlap}})
    except ConfigError:
        return _with(job, checkpoint, values)


def _lowered(settings: Settings) -> dict[str, dict[str, Any]]:
    passes = tuple(one.model_copy(update={"denoise": _less(one.denoise)}) for one in settings.detail.passes)
    tiled = {} if settings.tiled.denoise is None else {"denoise": _less(settings.tiled.denoise)}
    values: dict[str, dict[str, Any]] = {"hires": {"denoise": _less(settings.hires.denoise)}, "tiled": tiled}
    return {**values, "detail": {"passes": passes}} if passes else values


def _less(denoise: float) -> float:
    return round(denoise * DENOISE, 6)


def _with(job: Job, checkpoint: Checkpoint, values: Mapping[str, Mapping[str, Any]]) -> Job:
    """Raises ConfigError where no grid has that overlap."""
    config = job.config.with_layer(values, ORIGIN)
    stages = stages_of(
        config.settings, job.route, job.seed, checkpoint, config.from_image, prompt=job.found.prompt is not None
    )
    for stage in stages:
        if isinstance(stage, PassStage):
            stage.layout(stage.checkpoint.vae_factor)
    return replace(job, config=config, stages=stages)


def flagged(findings: Sequence[Finding]) -> bool:
    """Whether a milder attempt may help: it takes no less memory."""
    return any(finding.flags and finding.check != ladder.CHECK for finding in findings)


def badness(findings: Sequence[Finding], score: float | None) -> tuple[bool, float]:
    """What the better of two attempts has less of: hard failures, then score; without one, the largest value ÷ limit."""
    hard = any(finding.severity == "error" for finding in findings)
    if score is not None:
        return hard, score
    over = [f.value / f.limit if f.limit > 0 else inf for f in findings if f.flags and f.value is not None]
    return hard, max(over, default=0.0)


def why(kept: tuple[bool, float], other: tuple[bool, float], *, scored: bool) -> str:
    """What made an attempt the better one, from the badness of both."""
    if kept[0] != other[0]:
        return "The other one has a hard failure."
    what = "score" if scored else "largest value ÷ limit"
    if kept[1] < other[1]:
        return f"Its {what} is lower: {kept[1]:.4g}, the other's {other[1]:.4g}."
    return f"The second is no better: both have the {what} {kept[1]:.4g}."


def tried(job: Job, first: Job, findings: Sequence[Finding], score: float | None, key: str) -> dict[str, Any]:
    """An attempt as the record keeps it. `key`: its last stage's fingerprint."""
    before, after = (_flat(one.config.settings.model_dump(mode="json")) for one in (first, job))
    changes = {name: value for name, value in after.items() if value != before[name]}
    flags = sorted({finding.check for finding in findings if finding.flags})
    return {"changes": changes, "score": score, "flags": flags, "fingerprint": key}


def _flat(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By "section.key"; of detail passes each setting of its own: "detail.passes[0].denoise"."""
    flat = {f"{section}.{name}": value for section, values in settings.items() for name, value in values.items()}
    passes = flat.pop("detail.passes")
    return flat | {f"detail.passes[{i}].{name}": value for i, one in enumerate(passes) for name, value in one.items()}
