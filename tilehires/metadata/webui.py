"""The infotext of A1111's family: A1111, Forge, SD.Next, Fooocus' "a1111" scheme, and whoever writes like them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tilehires.metadata.a1111 import LARGEST, parse
from tilehires.metadata.metadata import Lora, Metadata
from tilehires.metadata.names import schedule as a1111_schedule
from tilehires.metadata.values import MOST_SEED, MOST_STEPS, Unreadable, is_table, number, size_of, whole, words

_SCHEDULES = (
    *("Karras", "Exponential", "Polyexponential", "Beta", "SGM Uniform", "Simple", "Uniform"),
    *("Align Your Steps", "KL Optimal", "Normal", "DDIM"),
)
_READ = frozenset(
    {"Seed", "Sampler", "Schedule type", "CFG scale", "Steps", "Clip skip", "Size", "Tiling", "Model", "Model hash"}
)
_TOOLS = (
    ("Fooocus", re.compile(r"Fooocus\b")),
    ("Forge", re.compile(r"(f\d|neo\b|classic\b)")),
    ("ComfyUI", re.compile(r"ComfyUI\b")),
    ("tilehires", re.compile(r"tilehires\b")),
)


def infotext_in(texts: Mapping[str, str]) -> str | None:
    """The text that may be an infotext: PNG's "parameters", or a JPEG or GIF comment that reads like one."""
    text = texts.get("parameters", "")
    if not text.strip():
        text = texts.get("comment", "")
        if not re.search(r"(^|\n|,) {0,8}Steps: {0,8}\d", text[:LARGEST]):
            return None
    return None if not text.strip() or is_table(text) else text


def read(texts: Mapping[str, str]) -> Metadata | None:
    """An infotext's settings. Forge and SD.Next write A1111's; its version says who wrote it."""
    text = infotext_in(texts)
    if text is None:
        return None
    if len(text) > LARGEST:
        raise Unreadable(f'the text "parameters" has {len(text):,} characters, which is no infotext')
    infotext = parse(words(text) or "")
    fields = infotext.fields
    sampler, scheduler = _sampler(fields)
    version = fields.get("Version", "")
    source = next((tool for tool, mark in _TOOLS if mark.match(version)), "A1111")
    if fields.get("App") == "SD.Next":
        source = "SD.Next"
    return Metadata(
        prompt=infotext.prompt,
        negative_prompt=infotext.negative_prompt,
        seed=whole(fields.get("Seed"), 0, MOST_SEED),
        sampler=sampler,
        scheduler=scheduler,
        cfg=number(fields.get("CFG scale")),
        steps=whole(fields.get("Steps"), 1, MOST_STEPS),
        clip_skip=whole(fields.get("Clip skip"), 1, 100),
        size=size_of(fields.get("Size")),
        seamless="both" if fields.get("Tiling") == "True" else None,
        model=fields.get("Model") or None,
        model_hash=fields.get("Model hash") or None,
        family=_family(source, fields),
        loras=_loras(fields) if source == "Fooocus" else (),
        others={key: value for key, value in fields.items() if key not in _READ},
        source=source,
    )


def _family(source: str, fields: Mapping[str, str]) -> str | None:
    """Fooocus runs SDXL alone; only of Flux-like models does Forge note a distilled guidance (their CFG is 1)."""
    if source == "Fooocus":
        return "sdxl"
    return "flux" if "Distilled CFG Scale" in fields else None


def _sampler(fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    """(sampler, schedule). Before A1111 1.9 the schedule was a part of the name: "DPM++ 2M Karras"."""
    sampler = fields.get("Sampler") or None
    schedule = fields.get("Schedule type") or a1111_schedule(fields.get("Scheduler")) or None
    if sampler and fields.get("Schedule type") is None:
        for name in _SCHEDULES:
            if sampler.lower().endswith(" " + name.lower()):
                return sampler[: -len(name)].strip(), name
    return sampler, schedule


def _loras(fields: Mapping[str, str]) -> tuple[Lora, ...]:
    """Fooocus' "Lora weights: name: 0.8, other: 0.5"; its prompts hold no tags."""
    found = []
    for part in fields.get("Lora weights", "").split(", ")[:100]:
        name, _, weight = part.rpartition(": ")
        value = number(weight, -100, 100)
        if name and value is not None:
            found.append(Lora(name, value))
    return tuple(found)
