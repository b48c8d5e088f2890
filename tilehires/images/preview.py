"""Small previews, without ever holding a large image as floats: a 16k output would be 3 GB of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tilehires.images.picture import MAX_PIXELS
from tilehires.images.read import opened


def preview(path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A WebP of at most `side` pixels on its longer side, upright, its colour profile kept.

    Raises ImageError as `read` does.
    """
    with opened(path, max_pixels) as image:
        small = _shrunk(image, side)
        icc = image.info.get("icc_profile") if small.mode in ("RGB", "RGBA") else None
        small = ImageOps.exif_transpose(small)
        small = small.convert("RGBA" if small.has_transparency_data else "RGB")
        out = io.BytesIO()
        small.save(out, "WEBP", quality=82, method=2, exif=b"", xmp=b"", icc_profile=icc)
        return out.getvalue()


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    image.draft("RGB", (side * 2, side * 2))
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode in ("P", "1"):  # which Pillow would shrink by dropping pixels
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((side, side), reducing_gap=2.0)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: Pillow's own conversion clips at 255."""
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535).astype(np.uint32) >> 8).astype(np.uint8))
