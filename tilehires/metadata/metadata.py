"""What an image says about its making, whichever tool wrote it, and what a reader of one tool's format is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tilehires.geometry import Size


@dataclass(frozen=True)
class Lora:
    """A LoRA that a tool lists beside its prompt. `text_encoder`: its weight there, where it differs from the UNet's."""

    name: str
    weight: float = 1.0
    text_encoder: float | None = None

    @property
    def tag(self) -> str:
        """As A1111 writes it in a prompt: <lora:name:weight>, or <lora:name:text encoder:unet>."""
        weights = [self.weight] if self.text_encoder in (None, self.weight) else [self.text_encoder, self.weight]
        return f"<lora:{self.name}:{':'.join(f'{weight:g}' for weight in weights)}>"


@dataclass(frozen=True)
class Metadata:
    """What an image says about its making; None where it says nothing, or nothing that makes sense.

    Names of samplers and schedules are A1111's where it has one, else the tool's own.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    sampler: str | None = None
    scheduler: str | None = None
    cfg: float | None = None
    steps: int | None = None
    clip_skip: int | None = None
    size: Size | None = None
    """Of the first pass."""
    seamless: Literal["both"] | None = None
    """It was made to tile without a seam, along both axes."""
    model: str | None = None
    model_hash: str | None = None
    family: str | None = None
    """The model's family ("sd1", "sd2", "sdxl", …) where the tool names it."""
    loras: tuple[Lora, ...] = ()
    """Those listed apart; what stands in the prompt as a tag stays there."""
    others: Mapping[str, str] = field(default_factory=dict)
    """What else was said, by the generator's own names."""
    source: str = ""
    """The tool or format it was read from, such as "A1111"; "" where nothing could be read."""
    notes: tuple[str, ...] = ()
    """What could not be read, for the user: one line each."""

    def settings(self) -> dict[str, Any]:
        """What `Config.for_image` takes: only what is known. `loras` are tags, to be put behind the prompt."""
        names = (
            "prompt",
            "negative_prompt",
            "seed",
            "steps",
            "cfg",
            "sampler",
            "scheduler",
            "clip_skip",
            "seamless",
            "model",
        )
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        tags = [lora.tag for lora in self.loras if f"<lora:{lora.name}:" not in (self.prompt or "")]
        return found | ({"loras": " ".join(tags)} if tags else {})


class Reader(Protocol):
    """One tool's format. Returns None where the texts are not that tool's; pure, and linear in the texts' length.

    Raises Unreadable where they are that tool's and can't be read: the message becomes a note, the next reader is asked.
    """

    def __call__(self, texts: Mapping[str, str], /) -> Metadata | None: ...
