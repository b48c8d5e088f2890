"""Encoding: rounded properly, with the input's metadata, put in place whole or not at all."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilehires.errors import ConfigError, ImageError
from tilehires.files import atomic
from tilehires.geometry import Size
from tilehires.images.exif import PREFIX as EXIF_PREFIX
from tilehires.images.exif import exif_with_texts, exif_without_texts
from tilehires.images.picture import Bits, FileFormat, Picture
from tilehires.images.png import metadata_chunks, write_with_chunks
from tilehires.images.tiff import write_tiff

_LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383, "tiff": 2**31 - 1, "avif": 65536}
_SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "avif": ".avif"}
_JPEG_SEGMENT = 65533
_OPENCV_ORDER = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # it has no 16-bit grey with alpha
_ROWS = 256  # rows turned into integers at a time, so that no second float copy of the picture is made
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"


def suffix_of(format: FileFormat) -> str:
    """The file name ending, with its dot."""
    return _SUFFIX[format]


def check_writable(format: str, size: Size) -> None:
    """Raise ConfigError for an unknown format, ImageError if the format can't hold an image of this size."""
    if format not in _LONGEST_SIDE:
        raise ConfigError(f"{format!r} is no output format.", hint=f"Choose one of {', '.join(get_args(FileFormat))}.")
    if size.long_side > _LONGEST_SIDE[format]:
        raise ImageError(
            f"{format.upper()} can't hold {size}: its longest side is {_LONGEST_SIDE[format]} pixels.",
            hint="Write PNG or TIFF (--set run.format=png), or make the output smaller (--max-side).",
        )


def write(
    path: Path, picture: Picture, *, format: FileFormat = "png", quality: int = 95, bits: Bits = "auto"
) -> tuple[str, ...]:
    """Write `picture` to `path`, whole or not at all; returns notes for the user on what the format could not hold.

    `quality` 1–100 is for JPEG, AVIF and WebP (100: lossless there). `bits` per channel is "8", "16" or "auto": as the
    picture says; only PNG and TIFF have 16. Equal pictures give equal bytes. ICC profile, EXIF, XMP, texts and
    resolution are written with it. Raises ImageError if the format can't hold the picture or a value is not finite,
    ConfigError for an unknown format.
    """
    with atomic(path) as stream:
        return encode(stream, picture, format=format, quality=quality, bits=bits)


def encode(
    stream: IO[bytes], picture: Picture, *, format: FileFormat = "png", quality: int = 95, bits: Bits = "auto"
) -> tuple[str, ...]:
    """As `write`, into an empty seekable stream."""
    check_writable(format, picture.size)
    notes: list[str] = []
    depth = picture.bits if bits == "auto" else int(bits)
    if depth == 16 and format not in ("png", "tiff"):
        depth = 8
        if bits == "16":
            notes.append(f"{format.upper()} has 8 bits per channel")
    if picture.alpha is not None and format == "jpeg":
        notes.append("JPEG has no transparency: it is put on white")
        picture = _on_white(picture)
    if picture.icc and (picture.icc[16:20] == b"GRAY") != picture.grey:
        notes.append("the input's colour profile doesn't fit the output's channels and is left out")
        picture = replace(picture, icc=None)
    if picture.iptc and format not in ("jpeg", "tiff"):
        notes.append(f"{format.upper()} has no place for IPTC captions: they are left out (EXIF and XMP are kept)")
    samples = to_samples(picture, depth)
    _ENCODERS[format](stream, samples, picture, quality, notes)
    return tuple(notes)


def to_samples(picture: Picture, bits: int) -> NDArray[Any]:
    """Stored integers, H × W × (1 grey, 2 + alpha, 3 RGB, 4 + alpha): floor(x · full + 0.5), clipped."""
    colours = 1 if picture.grey else 3
    channels = colours + (picture.alpha is not None)
    samples = np.empty((picture.size.height, picture.size.width, channels), np.uint16 if bits == 16 else np.uint8)
    full = np.float32(np.iinfo(samples.dtype).max)
    for top in range(0, samples.shape[0], _ROWS):
        rows = slice(top, top + _ROWS)
        block = picture.pixels[rows].astype(np.float32, copy=False)
        if not np.isfinite(block).all():
            raise ImageError(
                "The result holds values that are not finite.", hint="Use --set model.dtype=float32 and run it again."
            )
        samples[rows, :, :colours] = _rounded(block @ _LUMA[:, np.newaxis] if picture.grey else block, full)
        if picture.alpha is not None:
            samples[rows, :, -1] = _rounded(picture.alpha[rows], full)
    return samples


def _rounded(values: NDArray[np.float32], full: np.float32) -> NDArray[np.float32]:
    return np.floor(np.clip(values, 0.0, 1.0) * full + np.float32(0.5))


def _on_white(picture: Picture) -> Picture:
    if picture.alpha is None:
        return picture
    cover = picture.alpha[..., np.newaxis]
    return replace(picture, pixels=picture.pixels * cover + (np.float32(1) - cover), alpha=None)


def _write_png(stream: IO[bytes], samples: NDArray[Any], picture: Picture, quality: int, notes: list[str]) -> None:
    chunks = metadata_chunks(
        icc=picture.icc,
        exif=exif_without_texts(picture.exif, picture.size),
        xmp=picture.xmp,
        dpi=picture.dpi,
        texts=picture.texts,
    )
    if samples.dtype == np.uint8:
        encoded = io.BytesIO()
        _pillow(samples).save(encoded, "PNG")
        write_with_chunks(stream, encoded.getbuffer(), chunks)
        return
    import cv2

    done, data = cv2.imencode(".png", samples[..., _OPENCV_ORDER[samples.shape[2]]])
    if not done:
        raise ImageError("OpenCV could not encode the PNG.", hint="Write TIFF instead: --set run.format=tiff.")
    write_with_chunks(stream, memoryview(data.tobytes()), chunks)


def _write_tiff(stream: IO[bytes], samples: NDArray[Any], picture: Picture, quality: int, notes: list[str]) -> None:
    if samples.shape[2] == 2 and samples.dtype == np.uint16:
        samples = samples[..., [0, 0, 0, 1]]  # readers (Pillow) know no 16-bit grey with alpha
    block = exif_with_texts(picture.exif, picture.size, picture.texts, tiff=True)
    write_tiff(stream, samples, icc=picture.icc, exif=block, xmp=picture.xmp, iptc=picture.iptc, dpi=picture.dpi)


def _write_jpeg(stream: IO[bytes], samples: NDArray[Any], picture: Picture, quality: int, notes: list[str]) -> None:
    texts = dict(picture.texts)
    comment = texts.pop("comment", "").encode("utf-8")[:_JPEG_SEGMENT]
    limit = _JPEG_SEGMENT - len(EXIF_PREFIX)
    block = exif_with_texts(picture.exif, picture.size, texts, limit=limit)
    if block and len(block) > limit and "parameters" in texts:
        notes.append("JPEG holds 64 KB of metadata: of the texts only the infotext is written")
        block = exif_with_texts(picture.exif, picture.size, {"parameters": texts["parameters"]}, limit=limit)
    if block and len(block) > limit:
        raise ImageError("The metadata is larger than a JPEG can hold (64 KB).", hint="Write PNG or WebP.")
    segment = _iptc_segment(picture.iptc) if picture.iptc else b""
    if len(segment) > _JPEG_SEGMENT:
        notes.append("JPEG holds 64 KB of IPTC: it is left out")
        segment = b""
    xmp = picture.xmp or b""
    if len(xmp) > _JPEG_SEGMENT - 29:
        notes.append("JPEG holds 64 KB of XMP: it is left out")
        xmp = b""
    options: dict[str, Any] = {"comment": comment} if comment else {}
    _pillow(samples).save(
        stream,
        "JPEG",
        quality=quality,
        subsampling=0 if quality >= 90 else 2,
        icc_profile=picture.icc,
        exif=EXIF_PREFIX + block if block else b"",
        xmp=xmp,
        extra=struct.pack(">2sH", b"\xff\xed", len(segment) + 2) + segment if segment else b"",
        dpi=tuple(round(value) for value in picture.dpi) if picture.dpi else (0, 0),
        **options,
    )


def _write_webp(stream: IO[bytes], samples: NDArray[Any], picture: Picture, quality: int, notes: list[str]) -> None:
    block = exif_with_texts(picture.exif, picture.size, picture.texts)
    _pillow(samples).save(
        stream,
        "WEBP",
        quality=quality,
        lossless=quality == 100,
        exact=True,  # the colour beneath transparent pixels stays
        icc_profile=picture.icc or b"",
        exif=block or b"",
        xmp=picture.xmp or b"",
    )


def _write_avif(stream: IO[bytes], samples: NDArray[Any], picture: Picture, quality: int, notes: list[str]) -> None:
    block = exif_with_texts(picture.exif, picture.size, picture.texts)
    try:
        _pillow(samples).save(
            stream,
            "AVIF",
            quality=quality,
            subsampling="4:4:4" if quality >= 90 else "4:2:0",
            icc_profile=picture.icc or b"",
            exif=block or b"",
            xmp=picture.xmp or b"",
        )
    except KeyError as error:
        raise ConfigError(
            "This Pillow can't write AVIF.", hint="Choose another format, or upgrade Pillow to 11.3 or later."
        ) from error


def _iptc_segment(records: bytes) -> bytes:
    """IPTC records as Photoshop's image resource 0x0404: signature, number, empty name, length, data of even length."""
    return (
        b"Photoshop 3.0\x008BIM" + struct.pack(">HHI", 0x0404, 0, len(records)) + records + b"\0" * (len(records) & 1)
    )


_ENCODERS = {"png": _write_png, "tiff": _write_tiff, "jpeg": _write_jpeg, "webp": _write_webp, "avif": _write_avif}


def _pillow(samples: NDArray[np.uint8]) -> Image.Image:
    """A Pillow image of 8-bit samples in mode L, LA, RGB or RGBA."""
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
