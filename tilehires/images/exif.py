"""EXIF: kept byte for byte, set upright, and, in files that know no texts, the place where texts live.

A1111 keeps its infotext in UserComment. Every other text goes as one JSON object into ImageHistory (0x9213), the tag
for what was done to an image; a comment that was in UserComment before moves there too.
"""

from __future__ import annotations

import html
import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO

from tilehires.geometry import Size
from tilehires.images.directory import (
    ASCII,
    UNDEFINED,
    Directory,
    Order,
    Tag,
    integer,
    integers,
    pack,
    read_directory,
    read_order,
    text,
)

PREFIX = b"Exif\0\0"
_ORIENTATION, _IMAGE_DESCRIPTION = 0x0112, 0x010E
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
_MAKER_NOTE, _USER_COMMENT, _IMAGE_HISTORY = 0x927C, 0x9286, 0x9213
_WIDTH, _HEIGHT = 0xA002, 0xA003
_POINTERS = (_EXIF_IFD, _GPS_IFD, _INTEROP_IFD)
_GENERATED = re.compile(r"(^|\n)Negative prompt:|(^|[\n,])\s{0,8}Steps:\s{0,8}\d", re.IGNORECASE)
_GENERATED_JSON = ('"sui_image_params"', '"guidance_scale"', '"cfg_scale"', '"class_type"', '"Comment"')
_GRAPH = re.compile(r"(prompt|workflow):(?=\s{0,8}\{)")  # ComfyUI's WebP: in tags meant for the camera's maker
_LARGEST_HISTORY = 8 << 20
_XMP_COMMENTS = (b"exif:UserComment", b"dc:description")
_XMP_ITEM = re.compile(rb"<rdf:li\b[^<>]{0,200}>([^<>]*)</rdf:li>")
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)([1-8])")

# Tags of a TIFF file's directory that describe the picture; all others there say how its bytes lie in that file.
_DESCRIPTIVE = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *range(40091, 40096)})


@dataclass
class Exif:
    """An EXIF block taken apart: the main directory, and the three it points to."""

    order: Order = "<"
    main: Directory = field(default_factory=dict)
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    interop: Directory = field(default_factory=dict)
    source: bytes = b""
    """The block it was read from: a MakerNote's inner offsets count from its start."""

    def dump(self, limit: int | None = None) -> bytes | None:
        """The block's bytes without prefix, None if it is empty. The thumbnail, of the old picture, is left out.

        With a MakerNote the old block stays and new directories are put behind it, unless that is longer than `limit`.
        """
        if not (self.main or self.exif or self.gps):
            return None
        data = self._put_behind(self.source if _MAKER_NOTE in self.exif else b"")
        return self._put_behind(b"") if limit is not None and len(data) > limit else data

    def _put_behind(self, base: bytes) -> bytes:
        header = b"II*\0" if self.order == "<" else b"MM\0*"
        out = bytearray(base or header + bytes(4))
        out += b"\0" * (len(out) & 1)

        def place(directory: Directory) -> Tag:
            data, at = pack(directory, self.order, len(out))
            out.extend(data + b"\0" * (len(data) & 1))
            return integers(self.order, at)

        main, exif = dict(self.main), dict(self.exif)
        if self.interop:
            exif[_INTEROP_IFD] = place(self.interop)
        if exif:
            main[_EXIF_IFD] = place(exif)
        if self.gps:
            main[_GPS_IFD] = place(self.gps)
        data, at = pack(main, self.order, len(out))
        out.extend(data)
        struct.pack_into(self.order + "I", out, 4, at)
        return bytes(out)


def parse_exif(block: bytes) -> Exif | None:
    """Take an EXIF block apart (with or without its prefix); None if it is damaged."""
    block = block.removeprefix(PREFIX).removeprefix(PREFIX)  # some writers put it twice
    found = _read(io.BytesIO(block))
    if found is not None:
        found.source = block
    return found


def exif_of_tiff(stream: IO[bytes]) -> bytes | None:
    """What a TIFF file's first directory says about the picture, as an EXIF block of its own."""
    found = _read(stream)
    if found is None:
        return None
    found.main = {tag: value for tag, value in found.main.items() if tag in _DESCRIPTIVE}
    return found.dump()


def exif_orientation(block: bytes) -> int:
    """1–8; 1 (upright) where the block says nothing valid."""
    found = parse_exif(block)
    value = integer(found.main, _ORIENTATION, found.order) if found else None
    return value if value is not None and 1 <= value <= 8 else 1


def upright_exif(block: bytes) -> bytes | None:
    """The same block without an orientation, which means upright; None if it is damaged, or nothing else was in it."""
    found = parse_exif(block)
    if found is None or _ORIENTATION not in found.main:
        return found.source if found else None
    del found.main[_ORIENTATION]
    return found.dump()


def xmp_orientation(xmp: bytes) -> int:
    """1–8, as `exif_orientation`."""
    stated = re.search(_XMP_ORIENTATION, xmp)
    return int(stated[2]) if stated else 1


def upright_xmp(xmp: bytes) -> bytes:
    """The same packet with tiff:Orientation 1, as attribute or element."""
    return re.sub(_XMP_ORIENTATION, rb"\g<1>1", xmp)


def exif_texts(block: bytes) -> dict[str, str]:
    """The texts kept in an EXIF block: "parameters" for a generator's infotext, and what ImageHistory holds."""
    found = parse_exif(block)
    if found is None:
        return {}
    texts = _history(found)
    for candidate in (_comment(found), text(found.main, _IMAGE_DESCRIPTION)):
        if _is_generated(candidate):
            texts.setdefault("parameters", candidate)
    for _, keyword, graph in _graphs(found):
        texts.setdefault(keyword, graph)
    return texts


def xmp_parameters(xmp: bytes) -> str:
    """A generator's text in an XMP packet, as UserComment or description; "" if there is none."""
    for name in _XMP_COMMENTS:
        start = xmp.find(b"<" + name)
        end = xmp.find(b"</" + name, start, start + _LARGEST_HISTORY) if start >= 0 else -1
        item = _XMP_ITEM.search(xmp, start, end) if end >= 0 else None
        said = html.unescape(item[1].decode("utf-8", "replace")).strip() if item else ""
        if _is_generated(said):
            return said
    return ""


def _is_generated(said: str) -> bool:
    """Whether a comment is a generator's, and no photographer's."""
    if said[:64].lstrip().startswith("{"):
        return any(key in said for key in _GENERATED_JSON)
    return bool(_GENERATED.search(said))


def _graphs(found: Exif) -> list[tuple[int, str, str]]:
    """(tag, keyword, text) of what ComfyUI put into tags of the main directory: "prompt:{…}"."""
    graphs = []
    for tag, value in found.main.items():
        said = text(found.main, tag) if value.type == ASCII else ""
        if match := _GRAPH.match(said):
            graphs.append((tag, match[1], said[match.end() :]))
    return graphs


def exif_with_texts(
    block: bytes | None, size: Size, texts: Mapping[str, str], *, tiff: bool = False, limit: int | None = None
) -> bytes | None:
    """The block for a file of this size that carries `texts`: the infotext in UserComment (in TIFF: ImageDescription).

    `limit` is a wish, in bytes: see `Exif.dump`. None if there is nothing to write.
    """
    found = _cleaned(block, size)
    others = {key: value for key, value in texts.items() if key != "parameters"}
    if infotext := texts.get("parameters"):
        if tiff:
            if old := text(found.main, _IMAGE_DESCRIPTION):
                others.setdefault("ImageDescription", old)
            found.main[_IMAGE_DESCRIPTION] = Tag(ASCII, infotext.encode("utf-8", "replace") + b"\0")
        else:
            if old := _comment(found):
                others.setdefault("UserComment", old)
            comment = b"UNICODE\0" + infotext.encode("utf-16-be", "replace")  # big-endian whatever the block: as piexif
            found.exif[_USER_COMMENT] = Tag(UNDEFINED, comment)
    if others:
        found.exif[_IMAGE_HISTORY] = Tag(ASCII, json.dumps(others).encode("ascii") + b"\0")
    return found.dump(limit)


def exif_without_texts(block: bytes | None, size: Size) -> bytes | None:
    """The block for a file of this size that carries its texts elsewhere."""
    return _cleaned(block, size).dump() if block else None


def _read(stream: IO[bytes]) -> Exif | None:
    try:
        order, offset = read_order(stream)
        main = read_directory(stream, order, offset)
        exif = _pointed_to(stream, order, main, _EXIF_IFD)
        gps = _pointed_to(stream, order, main, _GPS_IFD)
        interop = _pointed_to(stream, order, exif, _INTEROP_IFD)
    except (ValueError, OSError):
        return None
    for directory in (main, exif):
        for tag in _POINTERS:
            directory.pop(tag, None)
    return Exif(order, main, exif, gps, interop)


def _pointed_to(stream: IO[bytes], order: Order, directory: Directory, tag: int) -> Directory:
    offset = integer(directory, tag, order)
    return read_directory(stream, order, offset) if offset else {}


def _cleaned(block: bytes | None, size: Size) -> Exif:
    """Upright, stating the new size where the old one was stated, without a generator's texts of the input."""
    found = (parse_exif(block) if block else None) or Exif()
    found.main.pop(_ORIENTATION, None)
    if _is_generated(text(found.main, _IMAGE_DESCRIPTION)):
        del found.main[_IMAGE_DESCRIPTION]
    for tag, _, _ in _graphs(found):
        del found.main[tag]
    for tag, value in ((_WIDTH, size.width), (_HEIGHT, size.height)):
        if tag in found.exif:
            found.exif[tag] = integers(found.order, value)
    if _is_generated(_comment(found)):
        found.exif.pop(_USER_COMMENT, None)
        found.main.pop(_USER_COMMENT, None)
    if _history(found):
        del found.exif[_IMAGE_HISTORY]
    return found


def _history(found: Exif) -> dict[str, str]:
    """The texts in ImageHistory; empty if somebody else wrote something else there."""
    written = text(found.exif, _IMAGE_HISTORY)
    if not written.startswith("{") or len(written) > _LARGEST_HISTORY:
        return {}
    try:
        loaded = json.loads(written)
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in loaded.items() if isinstance(value, str)}


def _comment(found: Exif) -> str:
    """UserComment as text; its first 8 bytes name the character code (EXIF 2.32, 4.6.5)."""
    value = found.exif.get(_USER_COMMENT) or found.main.get(_USER_COMMENT)  # Fooocus puts it into the main directory
    if value is None:
        return ""
    code, data = value.data[:8], value.data[8:]
    if code.startswith(b"UNICODE"):
        return data.decode(_utf16_order(data), "replace").strip("\0 \ufeff")
    if code.startswith(b"JIS\0"):
        return data.decode("iso2022_jp", "replace").strip("\0 ")
    if not code.startswith((b"ASCII\0", bytes(4))):
        data = value.data  # some writers leave the code out
    return data.decode("utf-8", "replace").strip("\0 ")


def _utf16_order(data: bytes) -> str:
    """Byte order of UTF-16. Writers disagree: a mark decides, else where the zero bytes of plain letters lie."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    head = data[:4096]
    return "utf-16-le" if head[1::2].count(0) > head[0::2].count(0) else "utf-16-be"
