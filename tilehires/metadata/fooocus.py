"""Fooocus' own scheme: a flat JSON object in PNG's "parameters" or EXIF's UserComment (its "a1111" scheme: webui.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tilehires.metadata.metadata import Lora, Metadata
from tilehires.metadata.names import sampler as a1111_sampler
from tilehires.metadata.names import schedule as a1111_schedule
from tilehires.metadata.values import (
    MOST_SEED,
    MOST_STEPS,
    is_table,
    load_table,
    number,
    other_words,
    size,
    stem,
    whole,
    words,
)

_READ = frozenset(
    {"prompt", "negative_prompt", "full_prompt", "full_negative_prompt", "seed", "steps", "sampler", "scheduler"}
    | {"guidance_scale", "clip_skip", "resolution", "base_model", "base_model_hash", "loras"}
)


def read(texts: Mapping[str, str]) -> Metadata | None:
    """Fooocus' parameters. The prompt is the one that was sampled, with what the styles added, where that is told."""
    text = texts.get("parameters", "") if is_table(texts.get("parameters", "")) else texts.get("Comment", "")
    if not is_table(text) or not any(f'"{key}"' in text for key in ("base_model", "guidance_scale", "full_prompt")):
        return None
    said = load_table(text, "Fooocus' metadata")
    prompt, negative = _joined(said.get("full_prompt")), _joined(said.get("full_negative_prompt"))
    return Metadata(
        prompt=prompt or words(said.get("prompt")),
        negative_prompt=negative or words(said.get("negative_prompt")) or "",
        seed=whole(said.get("seed"), 0, MOST_SEED),
        sampler=a1111_sampler(words(said.get("sampler"))),
        scheduler=a1111_schedule(words(said.get("scheduler"))),
        cfg=number(said.get("guidance_scale")),
        steps=whole(said.get("steps"), 1, MOST_STEPS),
        clip_skip=whole(said.get("clip_skip"), 1, 100),
        size=_size(said.get("resolution")),
        model=stem(said.get("base_model")),
        model_hash=words(said.get("base_model_hash")),
        family="sdxl",  # it runs nothing else
        loras=_loras(said),
        others=other_words(said, _READ),
        source="Fooocus",
    )


def _joined(parts: Any) -> str:
    """The first is the user's with its style; the others are styles and the expansion of the prompt."""
    if isinstance(parts, str):
        return words(parts) or ""
    if not isinstance(parts, list):
        return ""
    return ", ".join(dict.fromkeys(found for part in parts[:100] if (found := words(part))))


def _size(said: Any) -> Any:
    """ "(1152, 896)" or [1152, 896]."""
    if isinstance(said, str):
        match = re.fullmatch(r"[(\[]?\s*(\d{1,6})\s*[,x×*]\s*(\d{1,6})\s*[)\]]?", said.strip()[:40])
        return size(match[1], match[2]) if match else None
    return size(*said) if isinstance(said, list | tuple) and len(said) == 2 else None


def _loras(said: Mapping[str, Any]) -> tuple[Lora, ...]:
    """ "loras": [[name, weight, hash]], or "lora_combined_1": "name : weight"."""
    pairs: list[tuple[Any, Any]] = []
    listed = said.get("loras")
    for one in listed[:100] if isinstance(listed, list) else ():
        if isinstance(one, list) and len(one) >= 2:
            pairs.append((one[0], one[1]))
    if not pairs:
        combined = [(words(said[key]) or "")[:1000] for key in said if re.fullmatch(r"lora_combined_\d{1,2}", key)]
        pairs = [(name, weight) for name, _, weight in (one.rpartition(" : ") for one in combined)]
    found = [(stem(name), number(weight, -100, 100)) for name, weight in pairs]
    return tuple(Lora(name, weight) for name, weight in found if name and name != "None" and weight is not None)
