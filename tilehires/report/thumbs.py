"""Small previews for the grid, made once per image content."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256
"""Longest side of a preview in pixels."""
RECIPE = 1
"""Raised when previews of the same image come out differently."""
OURS = re.compile(r"[0-9a-f]{32}\.webp")


def thumbnail(picture: Path, sha256: str, folder: Path) -> str | None:
    """Make the preview of an image unless `folder` has it; return its file name, or None when it can't be decoded.

    `sha256` is the hash of the image's bytes: an image that changed gets a new preview. A preview is WebP, at most SIDE
    px on its longer side, upright, its colour profile kept: the page needs no large file until an image is opened.
    """
    name = hashlib.sha256(f"{RECIPE} {SIDE} {sha256}".encode()).hexdigest()[:32] + ".webp"
    target = folder / name
    if target.is_file():
        return name
    preview = _decode(picture)
    if preview is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tilehires-tmp-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            preview.save(stream, "WEBP", quality=82, method=2, icc_profile=preview.info.get("icc_profile"))
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


def _decode(path: Path) -> Image | None:
    """The image at preview size, or None: an input may have failed just because it can't be decoded.

    Pillow directly, not images.read: that would hold a 16k output as 3 GB of float32 to make 256 pixels of it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with _no_limits(), Image.open(path) as image:
            image.draft("RGB", (SIDE * 2, SIDE * 2))
            if image.mode.startswith("I") or image.mode == "F":
                image = _eight_bits(image)
            elif image.mode in ("P", "1"):  # which Pillow would shrink by dropping pixels
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
            icc = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
            image = ImageOps.exif_transpose(image)
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.info = {"icc_profile": icc} if icc else {}
            return image
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        return None


@contextmanager
def _no_limits() -> Iterator[None]:
    """Lift Pillow's limits, module globals, for one file: the run's own were applied when it was read or made.

    A 16384² output is beyond the one, the metadata of a large ComfyUI workflow beyond the other.
    """
    from PIL import Image, PngImagePlugin

    pixels, text = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, 64 * 2**20
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, text


def _eight_bits(image: Image) -> Image:
    """16-bit grey as 8-bit grey: Pillow's own conversion clips at 255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.clip(np.asarray(image), 0, 65535).astype(np.uint32) >> 8).astype(np.uint8))
