"""Two places on an image's way where a user's own Python may look, and change what comes next (docs/python-api.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    from tilehires.diffusion.prompts import Conditioning

Moment = TypeVar("Moment")
Change = TypeVar("Change")


@dataclass(frozen=True)
class Hook(Generic[Moment, Change]):
    """A function that is told of a moment and may answer with a change, or None.

    `key` stands for what it does: it enters the fingerprints of the stages that call it, so raise it ("grain 2") whenever
    the function would answer otherwise. Without one nothing of these stages is taken from the cache.
    """

    function: Callable[[Moment], Change | None]
    key: str | None = None


@dataclass(frozen=True, eq=False)
class BeforeSecondPass:
    """hires or a tiled step has enlarged its picture, and is about to re-noise and sample it.

    `image`: its id, the path in the input folder. `stage`: "hires", "tiled.1", … `source`: the input's pixels (of a prompt
    its first pass), H×W×3 float32 in [0, 1]; `upscaled`: the same at the pass's size, None where a latent upscaler made none.
    Both are read-only. The rest is what the pass will use.
    """

    image: str
    stage: str
    source: np.ndarray
    upscaled: np.ndarray | None
    prompt: str
    negative_prompt: str
    denoise: float
    steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class SecondPassChange:
    """What is to be otherwise in this pass; None: as it was. `pixels`: in place of the upscaled ones, of their shape.

    `denoise` in (0, 1], `steps` ≥ 1, `seed` ≥ 0. A LoRA that the prompt didn't name before can't come with one.
    """

    pixels: np.ndarray | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    denoise: float | None = None
    steps: int | None = None
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class BeforeSampling:
    """A sampling is about to begin, of a first pass, a second pass, a tile that is redrawn alone, or regions of a detail pass.

    `name` tells them apart within the `stage`: "hires: sampling", "detail.hires.1: sampling". `latents`: B×C×h×w float32,
    noised as the first step takes them. `conditioning`: what the first step listens to.
    """

    image: str
    stage: str
    name: str
    latents: torch.Tensor
    conditioning: Conditioning


@dataclass(frozen=True, eq=False)
class SamplingChange:
    """What the sampling begins with instead; None: as it was. A conditioning then holds for every step.

    Both of the shape that they had; the conditioning with the guidance it had.
    """

    latents: torch.Tensor | None = None
    conditioning: Conditioning | None = None


@dataclass(frozen=True)
class Callbacks:
    """A user's own functions in a run. They are called in its order, in its thread, one image after the other."""

    before_second_pass: Hook[BeforeSecondPass, SecondPassChange] | None = None
    before_sampling: Hook[BeforeSampling, SamplingChange] | None = None

    def identity(self, run: str) -> str:
        """What tells these from others, by their keys; "" for none. `run`: an id of this run alone, for want of a key."""
        hooks = (self.before_second_pass, self.before_sampling)
        return "".join(f"/{hook and (hook.key or run)}" for hook in hooks) if any(hooks) else ""


NO_CALLBACKS = Callbacks()
