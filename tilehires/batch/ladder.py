"""What is done when memory runs out within a stage: give back what isn't needed, take less at once, and begin it again.

The rungs, one at a time, each taken only after the one before it didn't help: free; halve the tile or region batch, down
to 1; offload more; let go of all models and begin anew; take smaller tiles or crops. A stage always begins again from its
input, so that nothing of a failed attempt is in its result, and that result is, bit for bit, what a plan of that batch would
have given. Only the last rung changes more than rounding: it is a finding, and the record says `degraded`.

The next stage, and the next image, begin with the plan again: no picture depends on what was done before it. That costs a
few attempts where a plan is too large every time; the notes say which setting spares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from tilehires.checks.finding import Finding
from tilehires.errors import ImageError
from tilehires.memory import OFFLOADS, Plan
from tilehires.stages import Shrinking, Source, Stage, StageResult, Tools
from tilehires.stages.detail import DetailStage

CHECK = "memory"  # the finding's name
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@dataclass(frozen=True)
class _Standing:
    """Where on the ladder a stage stands."""

    stage: Stage
    plan: Plan
    taken: tuple[str, ...] = ()
    freed: bool = False
    anew: bool = False
    smaller: bool = False


def run(
    stage: Stage,
    image: StageResult,
    source: Source,
    tools_for: Callable[[Plan, bool], Tools],
    plan: Plan,
    *,
    same_bytes: bool = False,
) -> tuple[StageResult, Plan]:
    """The stage's result, and the plan it was made with.

    `tools_for(plan, smaller)` gives the tools of an attempt; `smaller`: the tiles aren't those of the settings. The rungs
    taken are listed in the result's facts, under "degradations". `same_bytes`: only rungs that change no bit are taken.
    Raises ImageError, with a hint, when the last rung didn't help. Any other error passes through.
    """
    standing = _Standing(stage, plan)
    while True:
        tools = tools_for(standing.plan, standing.smaller)
        bay = tools.bay
        bay.offload = standing.plan.offload
        try:
            made = standing.stage.run(image, source, tools)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            return _result(made, standing), standing.plan
        # Only here, after the clause, are the error and the frames gone whose tensors fill the memory.
        part = bay.part_at_work
        bay.clear_device()
        following = _next(standing, part, tools, same_bytes=same_bytes)
        if following is None:
            raise ImageError(
                f"{stage.name}: memory ran out in the {part}, whatever was tried: {'; '.join(standing.taken)}.",
                hint=_hint(part, same_bytes=same_bytes),
            )
        standing = following
        tools.progress.note(f"{stage.name}: memory ran out in the {part}. Beginning again: {standing.taken[-1]}.")


def _next(standing: _Standing, part: str, tools: Tools, *, same_bytes: bool) -> _Standing | None:
    """One rung further; None after the last. A smaller batch spares the UNet only, so other parts skip it."""
    plan = standing.plan

    def took(rung: str, **changes: object) -> _Standing:
        return replace(standing, taken=(*standing.taken, rung), **changes)  # type: ignore[arg-type]

    if not standing.freed:
        return took("memory freed", freed=True)
    if part == "UNet" and not same_bytes:
        for name, batch in _batches(standing.stage, plan):
            if batch > 1:
                rung = f"{name.replace('_', ' ')} {batch // 2}"
                return took(rung, plan=replace(plan, **{name: batch // 2}))
    if tools.bay.can_offload and plan.offload != OFFLOADS[-1]:
        further = OFFLOADS[OFFLOADS.index(plan.offload) + 1]
        return took(f"models {further}", plan=replace(plan, offload=further))
    if not standing.anew:
        tools.bay.free()
        return took("models loaded anew", anew=True)
    if same_bytes or not isinstance(standing.stage, Shrinking):
        return None
    less = standing.stage.smaller(part)
    return None if less is None else took(less.change, stage=less.stage, smaller=True)


def _batches(stage: Stage, plan: Plan) -> tuple[tuple[str, int], ...]:
    """What the stage takes several of at once, by the plan's names, in the order in which it is to be less."""
    tiles = ("tile_batch", plan.tile_batch)
    if not isinstance(stage, DetailStage):
        return (tiles,)
    regions = ("region_batch", plan.region_batch)
    return (regions, tiles) if stage.in_tiles else (regions,)


def _result(made: StageResult, standing: _Standing) -> StageResult:
    if not standing.taken:
        return made
    facts = {**made.facts, "degradations": [*standing.taken, *made.facts.get("degradations", ())]}
    findings = made.findings
    if standing.smaller:
        message = (
            f"{standing.stage.name} ran out of memory and was made with {_less(standing.stage)}: {standing.taken[-1]}."
        )
        findings = (*findings, Finding(CHECK, "warning", float(len(standing.taken)), 0.0, None, message))
    return replace(made, facts=facts, findings=findings)


def _less(stage: Stage) -> str:
    return "less at once" if isinstance(stage, DetailStage) else "smaller tiles"


def _hint(part: str, *, same_bytes: bool) -> str:
    setting = {"UNet": "tiled.tile_max", "VAE": "memory.vae_whole_max", "upscaler": "memory.upscaler_tile"}.get(part)
    if same_bytes:
        smaller = "memory.tile_batch" if part == "UNet" else setting
        return (
            f"Under --deterministic nothing that changes a bit is tried: lower {smaller or '--vram'}, or leave it away."
        )
    lower = f"Lower {setting}, or declare" if setting else "Declare"
    return f"{lower} less memory with --vram, or close what else uses the device."
