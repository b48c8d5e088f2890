"""Which stages an image passes, in their order, each bound to its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tilehires.callbacks import Callbacks
from tilehires.config.settings import Settings, generate_pass, hires_pass, tiled_pass
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.stages import Stage, seamless
from tilehires.stages.check import CheckSettings, CheckStage
from tilehires.stages.detail import At, DetailStage, detail_stage
from tilehires.stages.extras import Extras, find_extras
from tilehires.stages.generate import GenerateStage, first_pass_settings, first_size
from tilehires.stages.looking import check_detector
from tilehires.stages.redenoise import PassStage, pass_settings
from tilehires.stages.refining import refiner_of
from tilehires.stages.route import Route
from tilehires.stages.swap import check_hand_over, checkpoint_of, swap_notes


def stages_of(
    settings: Settings,
    route: Route,
    seed: int,
    checkpoint: Checkpoint,
    from_image: Callable[[str], bool] = lambda name: False,
    *,
    prompt: bool = False,
) -> tuple[Stage, ...]:
    """hires, detail.hires, then tiled.1 … tiled.n, detail.final, then check (docs/design.md, "One image’s way through").

    Of a `prompt`, generate before all of them; alone where the route has no steps. `from_image`: as in `find_extras`, whose
    errors are raised.
    """
    stages: list[Stage] = []
    seamless.check(settings, route, first_size(settings, checkpoint.family) if prompt else None, checkpoint.vae_factor)
    if prompt:
        values = generate_pass(settings, seed)
        extras = find_extras(settings, "generate", values, checkpoint.family.name, from_image)
        refiner = refiner_of(values, checkpoint)
        stages.append(GenerateStage(first_pass_settings(settings, values, checkpoint), checkpoint, extras, refiner))
        if not route.steps:
            return tuple(stages)
        check_hand_over(settings, checkpoint)
    for step in route.steps:
        values = hires_pass(settings, seed) if step.name == "hires" else tiled_pass(settings, seed)
        own, extras, refiner = checkpoint, Extras(), None
        if values.denoise > 0:
            own = checkpoint_of(values, checkpoint)
            refiner = refiner_of(values, own)
            extras = find_extras(settings, step.name, values, own.family.name, from_image)
            extras = replace(extras, notes=(*extras.notes, *swap_notes(step.name, values, checkpoint, own)))
        stages.append(PassStage(step.name, pass_settings(settings, step, values, own), own, extras, refiner))
        if step.name == "hires":
            stages += _detail(settings, route, seed, checkpoint, "hires", from_image)
    stages += _detail(settings, route, seed, checkpoint, "final", from_image)
    if settings.check.enabled:
        looking = check_detector(settings)
        found, confidence = looking or (None, 0.0)
        checked = CheckSettings(
            only=settings.check.only,
            limits=settings.check.limits,
            percentiles=settings.check.percentiles,
            score_limit=settings.check.score_limit,
            target=route.target,
            frame=route.frame,
            cropped=route.cropped,
            passes=tuple((step.name, step.size) for step in route.steps),
            crop=route.steps[-1].crop,
            weights=found.weights if found and not found.files else "",
            classes=found.classes if found else (),
            confidence=confidence,
        )
        stages.append(CheckStage(checked, found))
    return tuple(stages)


def hook_keys(stage: Stage, callbacks: Callbacks, image: str, run: str) -> tuple[tuple[str, str, str], ...]:
    """What of the callbacks shapes a stage's result, for its fingerprint: each one's name, its key, and the image it is told of.

    `run`: an id of this run alone, in place of a key that there isn't: then no cache has the result.
    """
    asking: list[tuple[str, str | None]] = []
    samples = isinstance(stage, GenerateStage | DetailStage)
    if isinstance(stage, PassStage) and stage.settings.values.denoise > 0:
        samples = True
        if hook := callbacks.before_second_pass:
            asking.append(("before_second_pass", hook.key))
    if samples and (hook := callbacks.before_sampling):
        asking.append(("before_sampling", hook.key))
    return tuple((name, run if key is None else f"key {key}", image) for name, key in asking)


def _detail(
    settings: Settings, route: Route, seed: int, checkpoint: Checkpoint, at: At, from_image: Callable[[str], bool]
) -> list[Stage]:
    stage = detail_stage(settings, route, seed, checkpoint, at, from_image) if settings.detail.passes else None
    return [stage] if stage else []
