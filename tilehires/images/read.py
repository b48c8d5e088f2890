"""Decoding: every file becomes upright float RGB, or an ImageError that says what to do."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from tilehires.errors import ImageError
from tilehires.geometry import Size
from tilehires.images.exif import (
    exif_of_tiff,
    exif_orientation,
    exif_texts,
    parse_exif,
    upright_exif,
    upright_xmp,
    xmp_orientation,
    xmp_parameters,
)
from tilehires.images.picture import MAX_PIXELS, Decoded, Picture, Probe
from tilehires.images.png import MAX_TEXT, SIGNATURE, XMP_KEYWORD, bit_depth_and_colour, without_texts
from tilehires.images.png import read_texts as read_png_texts

# Formats whose decoders we let strangers' bytes into; Pillow knows some fifty more.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")
# What damaged files make Pillow's decoders raise.
_BROKEN_FILE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    ImageCms.PyCMSError,
)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES, _IPTC = 258, 262, 338, 33723
_IPTC_RESOURCE = 0x0404  # of Photoshop's image resources, the wrapping in a JPEG
_KNOWN = (
    (b"ftyphei", "HEIC"),
    (b"ftypmif1", "HEIC"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"PK\x03\x04", "ZIP"),
    (b"<svg", "SVG"),
    (b"<!DOCTYPE", "HTML"),
    (b"<html", "HTML"),
)

# EXIF orientation → how the stored array is turned upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}

_pillow_limits = threading.Lock()


def probe(path: Path, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """Read an image file's header: cheap, and no proof that the pixels are whole.

    Raises ImageError for a file that is missing, empty, no image of a known format, or larger than `max_pixels`.
    """
    with opened(path, max_pixels) as image:
        depth, grey = _depth_and_grey(image)
        size = Size(*image.size)
        if image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8):
            size = Size(size.height, size.width)
        return Probe(
            size=size,
            format=_format(image),
            mode=image.mode,
            bits=depth,
            grey=grey,
            alpha=_has_alpha(image),
            texts=_texts(path, image, _exif(image), []),
            frames=getattr(image, "n_frames", 1),
        )


def read(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file: upright, RGB, float32 in [0, 1].

    RGB and grey profiles are kept with the pixels as they are; CMYK and Lab are converted to sRGB. Of an animation,
    the first frame is taken and a note says so. Raises ImageError for whatever `probe` refuses, and for a file that is
    cut off or broken.
    """
    return decode(path, max_pixels=max_pixels).picture()


def decode(path: Path, *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The same with the samples as they are stored."""
    with opened(path, max_pixels) as image:
        depth, grey = _depth_and_grey(image)
        notes: list[str] = []
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            notes.append(f"{path.name} has {frames} frames; the first is used")
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # both decoders turn TIFF upright themselves
        raw_exif, xmp = _exif(image), _xmp(image)
        block = upright_exif(raw_exif) if raw_exif else None
        if raw_exif and parse_exif(raw_exif) is None:
            notes.append(f"{path.name}: its EXIF is damaged and is left out")
        texts = _texts(path, image, raw_exif, notes)
        dpi, iptc = _dpi(image), _iptc(image)
        image.load()  # the judge of whether the file is whole, for 16 bit too
        samples, icc = _samples(path, image, depth, notes)
    if turn := _UPRIGHT.get(orientation):
        samples = np.ascontiguousarray(turn(samples))
    return Decoded(
        samples=samples,
        grey=grey,
        icc=icc,
        exif=block,
        xmp=upright_xmp(xmp) if xmp else None,
        iptc=iptc,
        texts=texts,
        dpi=dpi,
        format=_format(image),
        notes=tuple(notes),
    )


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The opened file, checked against our own limits; whatever breaks inside the block becomes an ImageError."""
    if not path.is_file():
        raise ImageError(f"{path} is not there or is no file.", hint="Check the name.")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes).", hint="Copy or export it again.")
    try:
        with _our_limits(), _source(path) as source, Image.open(source, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{path} has {width}x{height} pixels, {width * height:,} in all; the limit is {max_pixels:,}.",
                    hint=f"If you trust the file, raise it: --set run.max_pixels={width * height}.",
                )
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no image that can be read{_looks_like(path)}.", hint=_CONVERT) from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read ({error.strerror}).", hint="Change its permissions.") from error
    except _BROKEN_FILE as error:
        raise ImageError(
            f"{path} is broken or cut off ({error}).",
            hint="Copy, download or export it again; half an image is not processed.",
        ) from error


@contextmanager
def _source(path: Path) -> Iterator[Path | IO[bytes]]:
    """What Pillow is given: a PNG without its texts, which Pillow would unpack, and fail on, before the pixels."""
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) == SIGNATURE:
            yield without_texts(file)
            return
    yield path


_CONVERT = "Convert it to PNG, JPEG, WebP, TIFF or AVIF, or take it out of the folder."


@contextmanager
def _our_limits() -> Iterator[None]:
    """Lift Pillow's limits, which are module globals, while one file is read, and put them back.

    Its bomb limit (179 megapixels) refuses a 16384² image, its text limit (1 MiB) a large ComfyUI workflow.
    """
    with _pillow_limits:
        pixels, text = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_TEXT
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # about metadata: what matters becomes a note of ours
                yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, text


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    name = next((name for magic, name in _KNOWN if magic in head), None)
    return f" (it looks like {name})" if name else ""


def _samples(path: Path, image: Image.Image, depth: int, notes: list[str]) -> tuple[NDArray[Any], bytes | None]:
    """The stored samples as uint8 or uint16, H × W × (1 grey, 2 + alpha, 3 RGB, 4 + alpha), and their profile."""
    icc = image.info.get("icc_profile") or None
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{path} holds 32-bit samples, whose range no one states.", hint="Export it with 8 or 16 bits per channel."
        )
    if image.mode.startswith("I;16"):  # big-endian TIFFs are "I;16B"
        return _grey16(image), _checked_profile(icc, b"GRAY", notes)
    if image.mode in ("CMYK", "LAB"):
        if depth == 16:
            notes.append(f"{path.name}: 16-bit {image.mode} is read with 8 bits")
        notes.append(f"{path.name}: {image.mode} is converted to sRGB")
        return np.asarray(_to_srgb(image, icc)), None
    if depth == 16:
        return _colour16(path, image), _checked_profile(icc, b"RGB ", notes)
    mode = _plain_mode(image)
    wanted = b"GRAY" if mode in ("L", "LA") else b"RGB "
    samples = np.asarray(image if image.mode == mode else image.convert(mode))
    return samples.reshape(*samples.shape[:2], -1), _checked_profile(icc, wanted, notes)


def _plain_mode(image: Image.Image) -> str:
    """The one of L, LA, RGB, RGBA that loses nothing."""
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if transparent else "L"
    return "RGBA" if transparent else "RGB"


def _grey16(image: Image.Image) -> NDArray[np.uint16]:
    samples = np.asarray(image).astype(np.uint16)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        samples = np.uint16(65535) - samples  # "white is zero": neither Pillow nor OpenCV turns 16-bit ones round
    key = image.info.get("transparency")
    if isinstance(key, int):
        opaque = np.where(samples == key, np.uint16(0), np.uint16(65535))
        return np.stack([samples, opaque], axis=-1)
    return samples[..., np.newaxis]


def _colour16(path: Path, image: Image.Image) -> NDArray[Any]:
    """Pillow has no 16-bit colour; OpenCV decodes the same file again, without changing a sample."""
    import cv2

    try:
        with _source(path) as source:
            data = np.fromfile(source, np.uint8) if isinstance(source, Path) else np.frombuffer(source.read(), np.uint8)
        samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from error
    if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != (image.height, image.width):
        raise ImageError(f"{path}: this kind of 16-bit file can't be read.", hint="Export it as a 16-bit PNG.")
    samples = samples.reshape(*samples.shape[:2], -1)
    samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]] if samples.shape[2] >= 3 else samples
    if samples.shape[2] == 4 and not image.has_transparency_data:
        samples = samples[..., :3]
    if image.format == "TIFF" and image.tag_v2.get(_EXTRA_SAMPLES) == (1,):  # type: ignore[attr-defined]
        alpha = np.maximum(samples[..., 3:].astype(np.float32), 1.0)
        straight = np.minimum(samples[..., :3] * (np.float32(65535) / alpha) + np.float32(0.5), np.float32(65535))
        samples = np.concatenate([straight.astype(np.uint16), samples[..., 3:]], axis=-1)
    return samples


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif icc and icc[16:20] == b"CMYK":
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    else:
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if converted is None:
        raise ValueError("colour conversion failed")
    return converted


def _checked_profile(icc: bytes | None, wanted: bytes, notes: list[str]) -> bytes | None:
    """The profile if it is for this kind of pixels; viewers would show a mismatched one wrongly, or not at all."""
    if icc is None or icc[16:20] == wanted:
        return icc
    notes.append(
        f"a colour profile for {icc[16:20].decode('ascii', 'replace').strip()} doesn't fit these pixels and is left out"
    )
    return None


def _depth_and_grey(image: Image.Image) -> tuple[int, bool]:
    """(8 or 16, has one colour channel), from the header: Pillow's mode tells neither for 16-bit colour."""
    if image.format == "PNG":
        depth, colour = bit_depth_and_colour(image.fp)  # type: ignore[arg-type]
        return (16 if depth == 16 else 8), colour in (0, 4)
    grey = image.mode in ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return (16 if max(bits) == 16 else 8), grey
    return 8, grey


def _has_alpha(image: Image.Image) -> bool:
    return bool(image.has_transparency_data)


def _format(image: Image.Image) -> str:
    return {"MPO": "jpeg"}.get(image.format or "", (image.format or "").lower())


def _orientation(image: Image.Image) -> int:
    """1–8; where EXIF says nothing, XMP may."""
    block, packet = _exif(image), _xmp(image)
    turned = exif_orientation(block) if block else 1
    return xmp_orientation(packet) if turned == 1 and packet else turned


def _exif(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        return exif_of_tiff(image.fp)  # type: ignore[arg-type]
    block = image.info.get("exif")
    return block if isinstance(block, bytes) and block else None


def _xmp(image: Image.Image) -> bytes | None:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode("utf-8")
    return packet.strip(b"\0") if isinstance(packet, bytes) and packet else None


def _iptc(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        records = image.tag_v2.get(_IPTC)  # type: ignore[attr-defined]
    else:
        resources = image.info.get("photoshop")
        records = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    return records if isinstance(records, bytes) and records else None


def _texts(path: Path, image: Image.Image, block: bytes | None, notes: list[str]) -> dict[str, str]:
    """Texts by PNG keyword, from chunks, from EXIF, from XMP, or from a JPEG or GIF comment."""
    texts: dict[str, str] = {}
    if image.format == "PNG":
        with path.open("rb") as file:
            texts = read_png_texts(file, notes)
        texts.pop(XMP_KEYWORD, None)
    elif isinstance(comment := image.info.get("comment"), bytes) and comment.strip(b"\0 "):
        texts["comment"] = comment.decode("utf-8", "replace").strip("\0")
    for keyword, text in (exif_texts(block) if block else {}).items():
        texts.setdefault(keyword, text)
    if "parameters" not in texts and (packet := _xmp(image)) and (said := xmp_parameters(packet)):
        texts["parameters"] = said
    return texts


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if not (isinstance(dpi, tuple) and len(dpi) == 2):
        return None
    x, y = float(dpi[0]), float(dpi[1])
    return (x, y) if 1 <= x <= 1e6 and 1 <= y <= 1e6 else None
