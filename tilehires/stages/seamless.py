"""What pictures that tile without a seam need of a run: sizes whose latents close to a ring, and no mode that cuts edges."""

from __future__ import annotations

from tilehires.config.settings import Settings, hires_pass, tiled_pass
from tilehires.errors import ConfigError, ImageError
from tilehires.geometry import Size, Wrap
from tilehires.stages.redenoise import CANVAS
from tilehires.stages.route import Route, Step


def check_settings(settings: Settings) -> None:
    """Raise ConfigError for settings that can't go with model.seamless, whatever the image."""
    if settings.model.seamless == "none":
        return
    for name, value, works in (
        ("tiled.redraw", settings.tiled.redraw, "fused"),
        ("tiled.seam_fix", settings.tiled.seam_fix, "none"),
    ):
        if value != works:
            raise ConfigError(
                f'{name} = "{value}" repaints pieces that don\'t see beyond an edge: not with model.seamless.',
                hint=f"Leave it at {works}: the fused tiles go around the edges.",
            )


def check(settings: Settings, route: Route, first: Size | None, factor: int) -> None:
    """Raise ImageError where a size on the way can't be a ring, ConfigError as check_settings.

    `first`: the size of a prompt's first pass; `factor`: the VAE's.
    """
    wrap = Wrap.of(settings.model.seamless)
    check_settings(settings)
    for axis, ring in (("width", wrap.x), ("height", wrap.y)):
        if not ring:
            continue
        if first:
            _whole(getattr(first, axis), "generate", axis, f"Set generate.{axis} to a multiple of {CANVAS}.")
        for step in route.steps:
            _check_step(settings, route, step, axis, factor)


def _check_step(settings: Settings, route: Route, step: Step, axis: str, factor: int) -> None:
    values = hires_pass(settings, 0) if step.name == "hires" else tiled_pass(settings, 0)
    if getattr(step.crop.size, axis) != getattr(step.size, axis):
        raise ImageError(
            f"model.seamless: the output's {axis} would be cropped, and its edges no longer meet.",
            hint="Ask for a size of the input's own aspect: --scale N, or one side as in --size 2048x0.",
        )
    if values.denoise == 0:
        return
    target = getattr(route.target, axis)
    near = max(CANVAS, (target + CANVAS // 2) // CANVAS * CANVAS)
    hint = f"Choose another size: --size {near}x0." if axis == "width" else f"Choose another size: --size 0x{near}."
    if near == target:
        hint = "Enlarge by 2, 4 or 8: then every step's size is a multiple where the input's is."
    _whole(getattr(step.size, axis), step.name, axis, hint)
    source = getattr(route.source, axis)
    if step.name == "hires" and values.upscaler.lower().startswith("latent") and source % factor:
        raise ImageError(
            f"model.seamless: latent upscalers need a {axis} of the input that is a multiple of {factor}, not {source}.",
            hint="Use another hires.upscaler, or crop the input.",
        )


def _whole(side: int, stage: str, axis: str, hint: str) -> None:
    # A canvas that is padded would be a ring of another length than the picture.
    if side % CANVAS:
        raise ImageError(
            f"model.seamless: the {axis} must be a multiple of {CANVAS} in every pass; in {stage} it would be {side}.",
            hint=hint,
        )
