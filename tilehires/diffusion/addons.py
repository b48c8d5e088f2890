"""What a LoRA or embedding file says of itself, for people: from headers, metadata and shapes. Nothing of a file is run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilehires.diffusion import lora
from tilehires.diffusion.embeddings import Embedding, read, said_by
from tilehires.diffusion.header import Header, read_header
from tilehires.errors import MissingError

LONGEST = 160  # characters of what a file says, shown
TAGS = 8  # of those trained on most, shown
_LARGEST = 4 << 20  # characters of tag counts that are read
_PARTS = {lora.UNET: "UNet", lora.TEXT: "text encoder", lora.TEXT_2: "second text encoder"}
_FAMILIES = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl"}
_NOTES = {
    "title": ("modelspec.title", "ss_output_name"),
    "trained on": ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"),
    "alpha": ("ss_network_alpha",),
    "trigger": ("modelspec.trigger_phrase", "modelspec.usage_hint", "trigger_words", "trained_words"),
}


def lora_facts(path: Path) -> dict[str, str]:
    """Family, whether it can be used, what it changes, its rank, and what its metadata tell. Reads the header only.

    Raises MissingError when that is damaged.
    """
    header = read_header(path)
    family = lora.family_of(header)
    counts, ranks = Counter[str](), set[int]()
    for name, shape in header.shapes.items():
        if placed := lora.down_half(name):
            counts[_PARTS[placed]] += 1
            ranks.add(shape[0])
    facts = {"family": family or "not told", "usable": _usable(path, family)}
    if counts:
        facts["changes"] = ", ".join(f"{part} ({count} modules)" for part, count in counts.items())
        facts["rank"] = str(*ranks) if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"
    return facts | _notes(header)


def embedding_facts(path: Path) -> dict[str, str]:
    """Family, word, how many vectors it stands for and their width. Raises MisfitError for what is no embedding."""
    one = Embedding(path.stem, path)
    rows = read(one)
    widths = tuple(each.shape[-1] for each in rows)
    facts = {
        "family": _FAMILIES.get(widths, "not told"),
        "word": _clean(path.stem),
        "vectors": str(rows[0].shape[0]),
        "width": " and ".join(map(str, widths)),
    }
    facts |= {name: _clean(value) for name, value in said_by(one).items()}
    return facts | (_notes(read_header(path)) if path.suffix.lower() == ".safetensors" else {})


def _usable(path: Path, family: str | None) -> str:
    if family not in (None, "sd1", "sd2", "sdxl"):
        return f"no: it is for {family}"
    try:
        lora.check(path, family or "")
    except MissingError as error:
        return f"no: {error.message}"
    return "yes"


def _notes(header: Header) -> dict[str, str]:
    found = {}
    for name, keys in _NOTES.items():
        if said := next((header.metadata[key] for key in keys if header.metadata.get(key, "").strip()), None):
            found[name] = _clean(said)
    if tags := _tags(header.metadata.get("ss_tag_frequency", "")):
        found["tags"] = tags
    return found


def _tags(text: str) -> str:
    """The tags of the pictures it was trained on, most frequent first: words that may call it."""
    try:
        folders: Any = json.loads(text) if len(text) < _LARGEST else {}
    except (ValueError, RecursionError):
        return ""
    counts = Counter[str]()
    for tags in folders.values() if isinstance(folders, Mapping) else ():
        for tag, count in tags.items() if isinstance(tags, Mapping) else ():
            counts[tag.strip()] += count if isinstance(count, int) else 0
    return _clean(", ".join(f"{tag} ({count})" for tag, count in counts.most_common(TAGS) if count > 0))


def _clean(said: object) -> str:
    """In one line, without what a terminal would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(said)[: 8 * LONGEST])
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
