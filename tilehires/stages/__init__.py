"""The stage protocol. Data moves one way: no stage calls another, none reads files, flags or globals.

The order of an image's stages is in tilehires.stages.order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel

from tilehires.callbacks import Callbacks
from tilehires.checks.finding import Finding
from tilehires.progress import Progress
from tilehires.scratch import Scratch

if TYPE_CHECKING:
    import torch

    from tilehires.diffusion.bay import Bay
    from tilehires.diffusion.resume import StepFile
    from tilehires.memory import Plan


@dataclass(frozen=True)
class Source:
    """The immutable input: `pixels` float32 HWC RGB in [0, 1]; `facts` of the stages that were before, by their names."""

    pixels: np.ndarray
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What a stage works with: where weights are, how much may be done at once, whom to tell, where canvases lie."""

    bay: Bay
    plan: Plan
    progress: Progress
    scratch: Scratch = Scratch()
    resume: StepFile | None = None
    """Where a pass of this stage keeps its state, and finds what a killed run left of it."""
    callbacks: Callbacks = Callbacks()
    image: str = ""
    """The image's id, for the callbacks."""


@dataclass(frozen=True)
class StageResult:
    """What leaves a stage: `pixels` float32 HWC RGB in [0, 1]; `facts` are plain JSON values that two equal runs share.

    `latents`: 1×C×h×w float32 on the CPU, from generate to hires only, whose canvas may be larger than the picture: for a pass
    that works on latents they are what counts, and the pixels only show them.
    """

    pixels: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    latents: torch.Tensor | None = None


class Stage(Protocol):
    """One step of one image's way."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when the output changes for the same settings."""
        ...

    @property
    def settings(self) -> BaseModel:
        """The slice of the settings that affects the output: it goes into the fingerprint whole."""
        ...

    @property
    def models(self) -> tuple[Path, ...]:
        """The weight files that affect the output: their hashes go into the fingerprint."""
        ...

    @property
    def makes_pixels(self) -> bool:
        """Whether the result's pixels are new, so that they must be stored."""
        ...

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult: ...


@dataclass(frozen=True)
class Less:
    """A stage that takes less memory at once than another, and makes another picture; `change` says by what, for people."""

    stage: Stage
    change: str


@runtime_checkable
class Shrinking(Protocol):
    """A stage that can be made to take less at once: the last thing done when memory runs out."""

    def smaller(self, part: str) -> Less | None:
        """The stage, smaller where `part` (one that Bay names, or "upscaler") ran out; None at its smallest."""
        ...
