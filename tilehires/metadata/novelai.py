"""NovelAI: a JSON object in PNG's "Comment", the prompt in "Description"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tilehires.metadata.metadata import Metadata
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
    whole,
    words,
)

_READ = frozenset(
    {"prompt", "uc", "seed", "steps", "sampler", "noise_schedule", "scale", "width", "height"}
    | {"v4_prompt", "v4_negative_prompt"}
)
_FAMILIES = (("Stable Diffusion XL", "sdxl"), ("NovelAI Diffusion V4", "nai4"), ("Stable Diffusion", "sd1"))
_LONGEST = 100_000


def read(texts: Mapping[str, str]) -> Metadata | None:
    """NovelAI's parameters; the model's family is told by "Source". Its emphasis is written as A1111's."""
    if is_table(texts.get("parameters", "")) and '"Comment"' in texts["parameters"]:  # its WebP keeps all in one
        packed = load_table(texts["parameters"], "NovelAI's metadata")
        texts = {key: value for key, value in packed.items() if isinstance(value, str)}
    comment = texts.get("Comment", "")
    if not is_table(comment) or not ("NovelAI" in texts.get("Software", "") or '"uc"' in comment):
        return None
    said = load_table(comment, "NovelAI's metadata")
    source = words(texts.get("Source", "")) or ""
    prompt = words(said.get("prompt")) or words(texts.get("Description")) or _caption(said.get("v4_prompt"))
    negative = words(said.get("uc")) or _caption(said.get("v4_negative_prompt"))
    return Metadata(
        prompt=to_a1111(prompt) if prompt else prompt,
        negative_prompt=to_a1111(negative) if negative else "",
        seed=whole(said.get("seed"), 0, MOST_SEED),
        sampler=a1111_sampler(words(said.get("sampler"))),
        scheduler=a1111_schedule(words(said.get("noise_schedule"))),
        cfg=number(said.get("scale")),
        steps=whole(said.get("steps"), 1, MOST_STEPS),
        size=size(said.get("width"), said.get("height")),
        model=source or None,
        family=next((family for mark, family in _FAMILIES if source.startswith(mark)), None),
        others=other_words(said, _READ),
        source="NovelAI",
    )


def to_a1111(prompt: str) -> str:
    """NovelAI's emphasis in A1111's: {x} is (x:1.05), [x] is (x:0.952), 1.5::x:: is (x:1.5); its round brackets are text.

    A prompt whose brackets don't match, or that is very long, only has its round brackets escaped.
    """
    text = re.sub(r"(?<!\\)([()])", r"\\\1", prompt[:_LONGEST]) + prompt[_LONGEST:]
    if len(prompt) > _LONGEST or not _balanced(text):
        return text
    text = re.sub(r"(-?\d{1,3}(?:\.\d{1,4})?)::([^:\n]{1,2000})::", r"(\2:\1)", text)
    swapped = {"{": "(", "}": ":1.05)", "[": "(", "]": ":0.952)"}
    return "".join(swapped.get(letter, letter) for letter in text)


def _balanced(text: str) -> bool:
    open_ones: list[str] = []
    for letter in text:
        if letter in "{[":
            open_ones.append("}" if letter == "{" else "]")
        elif letter in "}]" and (not open_ones or open_ones.pop() != letter):
            return False
    return not open_ones


def _caption(said: Any) -> str | None:
    """V4's prompt: one caption for the picture, one for each character."""
    caption = said.get("caption") if isinstance(said, dict) else None
    if not isinstance(caption, dict):
        return None
    listed = caption.get("char_captions")
    people = [
        one.get("char_caption") for one in (listed if isinstance(listed, list) else [])[:100] if isinstance(one, dict)
    ]
    return ", ".join(found for part in (caption.get("base_caption"), *people) if (found := words(part))) or None
