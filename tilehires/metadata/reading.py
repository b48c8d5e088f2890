"""From an image's texts to the settings it was made with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilehires.geometry import Size
from tilehires.metadata.a1111 import LARGEST, parse

_SCHEDULES = ("Karras", "Exponential", "Beta", "SGM Uniform", "Simple", "Uniform")
_SEED_BITS = 63
_READ = frozenset(
    {
        "Seed",
        "Sampler",
        "Schedule type",
        "CFG scale",
        "Steps",
        "Clip skip",
        "Size",
        "Model",
        "Model hash",
    }
)


@dataclass(frozen=True)
class Metadata:
    """What an image says about its making; None where it says nothing, or nothing that makes sense."""

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
    model: str | None = None
    model_hash: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)
    """What else was said, by the generator's own names."""
    source: str = ""
    """The format it was read from, such as "A1111"."""

    def settings(self) -> dict[str, Any]:
        """What `Config.for_image` takes: only what is known."""
        names = ("prompt", "negative_prompt", "seed", "steps", "cfg", "sampler", "scheduler", "clip_skip", "model")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def read(texts: Mapping[str, str]) -> Metadata | None:
    """What an image's texts (`images.Picture.texts`, `images.Probe.texts`) say; None if no generator's are among them.

    Pure, never fails, and takes time linear in the texts' length. Reads A1111's infotext, which Forge, SD.Next and
    Civitai write too.
    """
    text = texts.get("parameters", "")
    if not text.strip() or len(text) > LARGEST or text.lstrip().startswith("{"):  # JSON there is Fooocus'
        return None
    infotext = parse(text)
    fields = infotext.fields
    sampler, scheduler = _sampler(fields)
    return Metadata(
        prompt=infotext.prompt,
        negative_prompt=infotext.negative_prompt,
        seed=_whole(fields.get("Seed"), 0, 2**_SEED_BITS - 1),
        sampler=sampler,
        scheduler=scheduler,
        cfg=_number(fields.get("CFG scale")),
        steps=_whole(fields.get("Steps"), 1, 10_000),
        clip_skip=_whole(fields.get("Clip skip"), 1, 100),
        size=_size(fields.get("Size")),
        model=fields.get("Model") or None,
        model_hash=fields.get("Model hash") or None,
        others={key: value for key, value in fields.items() if key not in _READ},
        source="A1111",
    )


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The settings an image's texts name, for `Config.for_image`; {} where they name none."""
    found = read(texts)
    return found.settings() if found else {}


def _sampler(fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    """(sampler, schedule). Before A1111 1.9 the schedule was a part of the name: "DPM++ 2M Karras"."""
    sampler, schedule = fields.get("Sampler") or None, fields.get("Schedule type") or None
    if sampler and not schedule:
        for name in _SCHEDULES:
            if sampler.lower().endswith(" " + name.lower()):
                return sampler[: -len(name)].strip(), name
    return sampler, schedule


def _whole(text: str | None, least: int, most: int) -> int | None:
    if text is None or not re.fullmatch(r"\d{1,19}", text):
        return None
    value = int(text)
    return value if least <= value <= most else None


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\d{1,9}(\.\d{1,20})?", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _size(text: str | None) -> Size | None:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text or "")
    return Size(int(match[1]), int(match[2])) if match else None
