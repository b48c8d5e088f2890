"""SwarmUI: a JSON object with "sui_image_params", in PNG's "parameters" or EXIF's UserComment."""

from __future__ import annotations

from collections.abc import Mapping

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
    {"prompt", "negativeprompt", "model", "seed", "steps", "cfgscale", "width", "height", "sampler", "scheduler"}
    | {"loras", "loraweights", "clipstopatlayer"}
)
KEY = "sui_image_params"


def read(texts: Mapping[str, str]) -> Metadata | None:
    """SwarmUI's parameters."""
    text = texts.get("parameters", "")
    if KEY not in text or not is_table(text):
        return None
    said = load_table(text, "SwarmUI's metadata").get(KEY)
    if not isinstance(said, dict):
        return None
    layer = whole(said.get("clipstopatlayer"), -100, -1)
    return Metadata(
        prompt=words(said.get("prompt")),
        negative_prompt=words(said.get("negativeprompt")) or "",
        seed=whole(said.get("seed"), 0, MOST_SEED),
        sampler=a1111_sampler(words(said.get("sampler"))),
        scheduler=a1111_schedule(words(said.get("scheduler"))),
        cfg=number(said.get("cfgscale")),
        steps=whole(said.get("steps"), 1, MOST_STEPS),
        clip_skip=None if layer is None else -layer,
        size=size(said.get("width"), said.get("height")),
        model=stem(said.get("model")),
        loras=_loras(said.get("loras"), said.get("loraweights")),
        others=other_words(said, _READ),
        source="SwarmUI",
    )


def _loras(listed: object, weights: object) -> tuple[Lora, ...]:
    if isinstance(listed, str):
        listed = listed.split(",")
    if isinstance(weights, str):
        weights = weights.split(",")
    if not isinstance(listed, list):
        return ()
    values = weights if isinstance(weights, list) else []
    found = []
    for i, one in enumerate(listed[:100]):
        name = stem(one)
        weight = number(values[i], -100, 100) if i < len(values) else 1.0
        if name and weight is not None:
            found.append(Lora(name, weight))
    return tuple(found)
