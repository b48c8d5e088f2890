"""Pictures and EXIF blocks for the tests of images."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ImageCms

from tilehires.images import Picture
from tilehires.images.directory import ASCII, SHORT, UNDEFINED, Tag, integers
from tilehires.images.exif import Exif

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INFOTEXT = "a cat, größer 猫\nNegative prompt: dog\nSteps: 20, Sampler: Euler, CFG scale: 7.0, Seed: 1, Size: 8x8"


def picture(height: int = 9, width: int = 13, *, bits: int = 8, alpha: bool = False, grey: bool = False) -> Picture:
    """Random samples that are exact in `bits`, so that a lossless round trip must give them back."""
    full = 2**bits - 1
    samples = RNG.integers(0, full + 1, (height, width, 1 if grey else 3))
    pixels = np.repeat(samples, 3, axis=2) if grey else samples
    cover = RNG.integers(0, full + 1, (height, width)) if alpha else None
    return Picture(
        pixels=(pixels / full).astype(np.float32),
        alpha=None if cover is None else (cover / full).astype(np.float32),
        bits=bits,
        grey=grey,
    )


def camera_exif(order: str = "<", orientation: int = 1) -> bytes:
    """A block like a camera's, MakerNote and GPS included."""
    o = "<" if order == "<" else ">"
    block = Exif(
        order=o,
        main={0x010F: Tag(ASCII, "Müller Kamera\0".encode()), 0x0112: integers(o, orientation, kind=SHORT)},
        exif={
            0x927C: Tag(UNDEFINED, b"MAKER" * 9),
            0xA002: integers(o, 13),
            0xA003: integers(o, 9, kind=SHORT),
            0x829A: Tag(5, struct.pack(o + "II", 1, 60)),
        },
        gps={0x0001: Tag(ASCII, b"N\0")},
    )
    data = block.dump()
    assert data is not None
    return data


def draw_png(bits: int, width: int = 12, height: int = 8) -> bytes:
    """A colour PNG of 8 or 16 bits per channel as another program writes it: nothing before its pixels but the header."""
    import cv2

    samples = RNG.integers(0, 2**bits, (height, width, 3), dtype=np.uint16 if bits == 16 else np.uint8)
    return cv2.imencode(".png", samples)[1].tobytes()
