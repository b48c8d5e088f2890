"""Where a run's callbacks are called: what they are told, and whether what they answer can be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tilehires.callbacks import BeforeSampling, BeforeSecondPass, SamplingChange, SecondPassChange
from tilehires.config.settings import SamplingPass
from tilehires.diffusion import syntax
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.sampling import Before
from tilehires.errors import ImageError
from tilehires.stages import Source, Tools


@dataclass(frozen=True)
class Asked:
    """What a pass goes on with: its values, and the enlarged picture (None: there is none)."""

    values: SamplingPass
    upscaled: np.ndarray | None
    changed: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What was changed; nothing where nothing was."""
        if not self.changed:
            return {}
        named = {name: True if name == "pixels" else getattr(self.values, name) for name in self.changed}
        return {"callback": named}


def before_second_pass(
    tools: Tools, stage: str, source: Source, upscaled: np.ndarray | None, values: SamplingPass
) -> Asked:
    """Ask the callback, where there is one. Raises ImageError for an answer that can't be used."""
    hook = tools.callbacks.before_second_pass
    if hook is None:
        return Asked(values, upscaled)
    answer = hook.function(
        BeforeSecondPass(
            image=tools.image,
            stage=stage,
            source=_read_only(source.pixels),
            upscaled=None if upscaled is None else _read_only(upscaled),
            prompt=values.prompt,
            negative_prompt=values.negative_prompt,
            denoise=values.denoise,
            steps=values.steps,
            seed=values.seed,
        )
    )
    if answer is None:
        return Asked(values, upscaled)
    if not isinstance(answer, SecondPassChange):
        raise _refused("before_second_pass", f"answered a {type(answer).__name__}, not a SecondPassChange or None")
    names = ("prompt", "negative_prompt", "denoise", "steps", "seed")
    said = {name: value for name in names if (value := getattr(answer, name)) is not None}
    _check_settings(said, values)
    if answer.pixels is not None:
        upscaled = _pixels(answer.pixels, upscaled)
    changed = (*said, *(("pixels",) if answer.pixels is not None else ()))
    return Asked(values.model_copy(update=said), upscaled, changed)


def before_sampling(tools: Tools, stage: str, name: str) -> Before | None:
    """What `sample` is to ask before it begins; None without a callback. Its errors are ImageErrors."""
    hook = tools.callbacks.before_sampling
    if hook is None:
        return None

    def before(latents: torch.Tensor, conditioning: Conditioning) -> tuple[torch.Tensor, Conditioning | None]:
        answer = hook.function(BeforeSampling(tools.image, stage, name, latents.clone(), conditioning))
        if answer is None:
            return latents, None
        if not isinstance(answer, SamplingChange):
            raise _refused("before_sampling", f"answered a {type(answer).__name__}, not a SamplingChange or None")
        if (new := answer.latents) is not None:
            if not isinstance(new, torch.Tensor) or new.shape != latents.shape or not torch.isfinite(new).all():
                raise _refused("before_sampling", f"must give finite latents of shape {tuple(latents.shape)}")
            latents = new.to(latents)
        if (heard := answer.conditioning) is not None and (
            not isinstance(heard, Conditioning)
            or (heard.batch, heard.guided) != (conditioning.batch, conditioning.guided)
        ):
            raise _refused("before_sampling", "must give a Conditioning of the batch and guidance that it was told of")
        return latents, heard

    return before


def _read_only(pixels: np.ndarray) -> np.ndarray:
    seen = pixels.view()
    seen.flags.writeable = False
    return seen


def _check_settings(said: dict[str, Any], values: SamplingPass) -> None:
    """Raise ImageError for values that no pass can take."""
    kinds = {"prompt": str, "negative_prompt": str, "denoise": (int, float), "steps": int, "seed": int}
    for name, value in said.items():
        if isinstance(value, bool) or not isinstance(value, kinds[name]):
            raise _refused("before_second_pass", f"gave {name} = {value!r}")
    if not 0 < said.get("denoise", 1) <= 1:
        raise _refused("before_second_pass", f"gave denoise = {said['denoise']!r}, which is not in (0, 1]")
    if not 1 <= said.get("steps", 1) <= 1000 or not 0 <= said.get("seed", 0) < 2**64:
        raise _refused("before_second_pass", "gave steps or a seed out of range")
    had = syntax.without_tags(values.prompt)[1]
    new = [tag for tag in syntax.without_tags(said.get("prompt", ""))[1] if tag not in had]
    if new:
        raise _refused(
            "before_second_pass", f"names {new[0].name!r} in its prompt, which the pass hasn't loaded: use hires.loras"
        )


def _pixels(given: Any, upscaled: np.ndarray | None) -> np.ndarray:
    """The callback's own pixels, in memory of their own. Raises ImageError."""
    if upscaled is None:
        raise _refused("before_second_pass", "gave pixels, and a latent upscaler works without any")
    if not isinstance(given, np.ndarray) or given.shape != upscaled.shape or given.dtype.kind != "f":
        raise _refused("before_second_pass", f"must give pixels as floats of shape {upscaled.shape}")
    if not np.isfinite(given).all():
        raise _refused("before_second_pass", "gave pixels that are no numbers")
    return given.astype(np.float32).clip(0, 1)


def _refused(callback: str, what: str) -> ImageError:
    return ImageError(f"The callback {callback} {what}.", hint="docs/python-api.md says what it may answer.")
