"""InvokeAI, in the three forms it has written: "invokeai_metadata" (3 and later), "sd-metadata" (2), "Dream" (1)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from tilehires.metadata.metadata import Lora, Metadata
from tilehires.metadata.names import sampler as a1111_sampler
from tilehires.metadata.names import split_karras
from tilehires.metadata.values import (
    MOST_SEED,
    MOST_STEPS,
    Unreadable,
    load_table,
    number,
    other_words,
    size,
    stem,
    whole,
    words,
)

_FAMILIES = {
    "sd-1": "sd1",
    "sd-2": "sd2",
    "sdxl": "sdxl",
    "sdxl-refiner": "sdxl-refiner",
    "sd-3": "sd3",
    "flux": "flux",
}
_READ = frozenset(
    {"positive_prompt", "negative_prompt", "seed", "steps", "cfg_scale", "scheduler", "clip_skip", "width", "height"}
    | {"model", "loras", "positive_conditioning", "negative_conditioning"}
)
_LONGEST_DREAM = 20_000


def read(texts: Mapping[str, str]) -> Metadata | None:
    """InvokeAI's parameters: the newest form that is there. Its clip_skip counts layers left out, A1111's from one."""
    for key in ("invokeai_metadata", "invokeai"):
        if texts.get(key, "").strip():
            return _three(load_table(texts[key], "InvokeAI's metadata"))
    if texts.get("sd-metadata", "").strip():
        return _two(load_table(texts["sd-metadata"], "InvokeAI's metadata"))
    return _dream(texts["Dream"]) if texts.get("Dream", "").strip() else None


def _three(said: Mapping[str, Any]) -> Metadata:
    if isinstance(said.get("node"), dict):  # between 2 and 3: the node that made the image
        said = said["node"]
    named = said.get("model")
    model: Mapping[str, Any] = named if isinstance(named, dict) else {}
    sampler, scheduler = split_karras(words(said.get("scheduler")))
    skipped = whole(said.get("clip_skip"), 0, 99)
    family = words(model.get("base_model") or model.get("base")) or ""
    return Metadata(
        prompt=words(said.get("positive_prompt")) or words(said.get("positive_conditioning")),
        negative_prompt=words(said.get("negative_prompt")) or words(said.get("negative_conditioning")) or "",
        seed=whole(said.get("seed"), 0, MOST_SEED),
        sampler=sampler,
        scheduler=scheduler,
        cfg=number(said.get("cfg_scale")),
        steps=whole(said.get("steps"), 1, MOST_STEPS),
        clip_skip=None if skipped is None else skipped + 1,
        size=size(said.get("width"), said.get("height")),
        model=stem(model.get("model_name") or model.get("name") or named),
        model_hash=words(model.get("hash")),
        family=_FAMILIES.get(family),
        loras=_loras(said.get("loras")),
        others=other_words(said, _READ),
        source="InvokeAI",
    )


def _two(said: Mapping[str, Any]) -> Metadata:
    image = said.get("image")
    if not isinstance(image, dict):
        raise Unreadable("InvokeAI's metadata says nothing about an image")
    prompts = image.get("prompt")
    if isinstance(prompts, list):  # weighted prompts; the weights were never used by its interface
        prompts = ", ".join(words(one.get("prompt")) or "" for one in prompts[:20] if isinstance(one, dict))
    prompt, negative = _split(words(prompts) or "")
    return Metadata(
        prompt=prompt,
        negative_prompt=negative,
        seed=whole(image.get("seed"), 0, MOST_SEED),
        sampler=a1111_sampler(words(image.get("sampler"))),
        cfg=number(image.get("cfg_scale")),
        steps=whole(image.get("steps"), 1, MOST_STEPS),
        size=size(image.get("width"), image.get("height")),
        model=stem(said.get("model_weights")),
        model_hash=words(said.get("model_hash")),
        source="InvokeAI",
    )


def _dream(text: str) -> Metadata:
    """A command line: "a cat [ugly]" -s 50 -S 42 -W 512 -H 512 -C 7.5 -A k_lms."""
    if len(text) > _LONGEST_DREAM:
        raise Unreadable(f"InvokeAI's command has {len(text):,} characters")
    try:
        first, *rest = shlex.split(text)
    except ValueError:
        raise Unreadable("InvokeAI's command has an open quote") from None
    flags: dict[str, str] = {}
    for at, word in enumerate(rest):
        if match := re.fullmatch(r"-([sSWHCA])(.*)", word):
            flags[match[1]] = match[2] or (rest[at + 1] if at + 1 < len(rest) else "")
    prompt, negative = _split(words(first) or "")
    return Metadata(
        prompt=prompt,
        negative_prompt=negative,
        seed=whole(flags.get("S"), 0, MOST_SEED),
        sampler=a1111_sampler(flags.get("A")),
        cfg=number(flags.get("C")),
        steps=whole(flags.get("s"), 1, MOST_STEPS),
        size=size(flags.get("W"), flags.get("H")),
        source="InvokeAI",
    )


def _split(prompt: str) -> tuple[str, str]:
    """(prompt, negative prompt): what stands in square brackets was the negative prompt."""
    negative = ", ".join(found.strip() for found in re.findall(r"\[([^\[\]]*)\]", prompt))
    return re.sub(r"\s*\[[^\[\]]*\]", "", prompt).strip(), negative


def _loras(listed: Any) -> tuple[Lora, ...]:
    """[{"model" or "lora": {"name" or "model_name": …}, "weight": …}]."""
    found = []
    for one in listed[:100] if isinstance(listed, list) else ():
        model = (one.get("model") or one.get("lora")) if isinstance(one, dict) else None
        name = stem(model.get("name") or model.get("model_name")) if isinstance(model, dict) else None
        weight = number(one.get("weight", 1.0), -100, 100) if name else None
        if name and weight is not None:
            found.append(Lora(name, weight))
    return tuple(found)
