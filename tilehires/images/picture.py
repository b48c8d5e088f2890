"""What a decoded image is: float pixels, and everything about its file that must come out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import Size

FileFormat = Literal["png", "jpeg", "webp", "tiff", "avif"]

Bits = Literal["auto", "8", "16"]

MAX_PIXELS = 400_000_000
"""Our own limit for readers that name none (16384² is 268 million; Pillow's own limit of 179 million refuses that)."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif"})
"""File name endings, in lower case, that are looked at as images. What a file is gets decided by its bytes."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, upright, with what its file said beside the pixels.

    `pixels` are float32, height × width × 3, RGB in [0, 1], encoded as the file's profile says (sRGB without one).
    `alpha` is float32, height × width in [0, 1], not multiplied into the colour; None for an opaque file.
    """

    pixels: NDArray[np.float32]
    alpha: NDArray[np.float32] | None = None
    bits: int = 8
    """Bits per channel of the file, 8 or 16."""
    grey: bool = False
    """The file held one colour channel; `write` makes it one again."""
    icc: bytes | None = None
    """ICC profile of the pixels: an RGB profile, or a grey one when `grey`."""
    exif: bytes | None = None
    """EXIF as a TIFF structure, without the "Exif\\0\\0" prefix; it holds no orientation: the pixels are upright."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records, a photographer's captions; only JPEG and TIFF have a place for them."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """PNG texts by keyword, whatever container they came from; "parameters" is the A1111 infotext."""
    dpi: tuple[float, float] | None = None
    format: str = "png"
    """Format of the file it was read from, in lower case, such as "jpeg"."""
    notes: tuple[str, ...] = ()
    """What reading had to give up or change, for the user: one line each."""

    @property
    def size(self) -> Size:
        return Size(self.pixels.shape[1], self.pixels.shape[0])


@dataclass(frozen=True)
class Probe:
    """What an image file's header says; the pixels have not been decoded and may still turn out to be broken."""

    size: Size
    """As shown, after the EXIF orientation."""
    format: str
    mode: str
    """Pillow's mode, such as "RGB"."""
    bits: int
    grey: bool
    alpha: bool
    texts: Mapping[str, str]
    frames: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded file, upright, before its samples become floats: the smallest form it can be handed on in.

    `samples` are uint8 or uint16, height × width × (1 grey, 2 + alpha, 3 RGB, 4 + alpha); the rest is as in `Picture`.
    """

    samples: NDArray[Any]
    grey: bool
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None
    texts: Mapping[str, str]
    dpi: tuple[float, float] | None
    format: str
    notes: tuple[str, ...]

    def picture(self) -> Picture:
        pixels, alpha = _to_float(self.samples)
        bits = 16 if self.samples.dtype == np.uint16 else 8
        return Picture(pixels, alpha, bits, **{one.name: getattr(self, one.name) for one in fields(self)[1:]})


def _to_float(samples: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    full = np.float32(np.iinfo(samples.dtype).max)
    channels = samples.shape[2]
    colour = samples[..., : 3 if channels >= 3 else 1]
    pixels = np.empty((*samples.shape[:2], 3), np.float32)
    np.divide(colour, full, out=pixels, dtype=np.float32)
    alpha = np.divide(samples[..., -1], full, dtype=np.float32) if channels in (2, 4) else None
    return pixels, alpha
