"""From an image's texts to the settings it was made with: the readers, one per tool, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tilehires.metadata.comfyui import read as read_comfyui
from tilehires.metadata.fooocus import read as read_fooocus
from tilehires.metadata.invokeai import read as read_invokeai
from tilehires.metadata.metadata import Metadata, Reader
from tilehires.metadata.novelai import read as read_novelai
from tilehires.metadata.swarmui import read as read_swarmui
from tilehires.metadata.values import Unreadable
from tilehires.metadata.webui import read as read_webui

READERS: tuple[Reader, ...] = (read_webui, read_swarmui, read_novelai, read_fooocus, read_invokeai, read_comfyui)
"""The first that finds its own wins. ComfyUI comes last: others run on it, or leave its graph beside their own text."""


def read(texts: Mapping[str, str]) -> Metadata | None:
    """What an image's texts (`images.Picture.texts`, `images.Probe.texts`) say; None if no tool's are among them.

    Pure, never fails, takes time and memory linear in what is read, and reads no more than 1 Mi characters of an
    infotext and 4 Mi of JSON. What can't be read is a note.
    """
    notes: list[str] = []
    for reader in READERS:
        try:
            found = reader(texts)
        except Unreadable as reason:
            notes.append(f"Its metadata can't be read: {reason}.")
            continue
        if found is not None:
            return replace(found, notes=(*found.notes, *notes))
    return Metadata(notes=tuple(notes)) if notes else None


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The settings an image's texts name, for `Config.for_image`; {} where they name none."""
    found = read(texts)
    return found.settings() if found else {}
