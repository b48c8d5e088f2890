"""Small previews for the grid, made once per image content."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tilehires.errors import ImageError
from tilehires.files import ours
from tilehires.images import Decoder

FOLDER = "report/thumbs/"
"""Where they lie in an output folder."""
SIDE = 256
"""Longest side of a preview in pixels."""
RECIPE = 1
"""Raised when previews of the same image come out differently."""
OURS = re.compile(r"[0-9a-f]{32}\.webp")


def name_of(sha256: str) -> str:
    """The file name of the preview of an image with these bytes."""
    return hashlib.sha256(f"{RECIPE} {SIDE} {sha256}".encode()).hexdigest()[:32] + ".webp"


def thumbnail(picture: Path, sha256: str, folder: Path, decoder: Decoder, *, max_pixels: int) -> str | None:
    """Make the preview of an image unless `folder` has it; return its file name, or None when it can't be decoded.

    `sha256` is the hash of the image's bytes: an image that changed gets a new preview. A preview is WebP, at most SIDE
    px on its longer side, upright, its colour profile kept: the page needs no large file until an image is opened.
    """
    name = name_of(sha256)
    target = folder / name
    if target.is_file():
        return name
    try:
        preview = decoder.preview(picture, SIDE, max_pixels=max_pixels)
    except ImageError:
        return None  # an input may have failed just because it can't be decoded
    with ours(target):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tilehires-tmp-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(preview)
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return name


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Delete the previews that no image of the page uses; only files with names that `thumbnail` gives."""
    keep = set(names)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in keep:
            path.unlink(missing_ok=True)
