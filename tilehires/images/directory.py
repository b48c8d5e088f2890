"""TIFF directories, the structure of TIFF files and EXIF blocks: read and written without changing strangers' values.

TIFF 6.0, section 2; EXIF 2.32, section 4.6. Values keep their type and bytes: what a camera wrote comes out again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Literal

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_LARGEST_VALUE = 16 << 20

Order = Literal["<", ">"]
"""Byte order as struct writes it: "<" or ">"."""


@dataclass(frozen=True)
class Tag:
    """One value: its TIFF type and its bytes in the block's byte order."""

    type: int
    data: bytes

    @property
    def count(self) -> int:
        return len(self.data) // _SIZES[self.type]


Directory = dict[int, Tag]


def read_order(stream: IO[bytes], start: int = 0) -> tuple[Order, int]:
    """Byte order and the first directory's offset of the structure at `start`. Raises ValueError if none is there."""
    stream.seek(start)
    head = stream.read(8)
    if head[:4] not in (b"II*\0", b"MM\0*") or len(head) < 8:
        raise ValueError("no TIFF structure")
    order: Order = "<" if head[:2] == b"II" else ">"
    return order, struct.unpack(order + "I", head[4:])[0]


def read_directory(stream: IO[bytes], order: Order, offset: int) -> Directory:
    """The directory at `offset`; entries that point outside or have no known type are left out, never guessed."""
    stream.seek(offset)
    head = stream.read(2)
    if len(head) < 2:
        raise ValueError("a TIFF directory lies outside its file")
    table = stream.read(12 * struct.unpack(order + "H", head)[0])
    directory: Directory = {}
    for at in range(0, len(table) - 11, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", table, at)
        length = count * _SIZES.get(kind, 0)
        if not 0 < length <= _LARGEST_VALUE:
            continue
        if length <= 4:
            data = table[at + 8 : at + 8 + length]
        else:
            stream.seek(struct.unpack_from(order + "I", table, at + 8)[0])
            data = stream.read(length)
        if len(data) == length:
            directory[tag] = Tag(kind, data)
    return directory


def pack(directory: Mapping[int, Tag], order: Order, offset: int) -> tuple[bytes, int]:
    """Bytes to be put at `offset` of a file (an even number), and the place in the file where the directory begins."""
    out = bytearray()
    table = bytearray(struct.pack(order + "H", len(directory)))
    for tag, value in sorted(directory.items()):
        table += struct.pack(order + "HHI", tag, value.type, value.count)
        if len(value.data) <= 4:
            table += value.data.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", offset + len(out))
            out += value.data + b"\0" * (len(value.data) & 1)
    table += struct.pack(order + "I", 0)  # no further directory
    return bytes(out + table), offset + len(out)


def integer(directory: Mapping[int, Tag], tag: int, order: Order) -> int | None:
    """The first value of a SHORT or LONG tag; None if it isn't there."""
    value = directory.get(tag)
    if value is None or value.type not in (SHORT, LONG):
        return None
    return struct.unpack_from(order + ("H" if value.type == SHORT else "I"), value.data)[0]


def integers(order: Order, *values: int, kind: int = LONG) -> Tag:
    return Tag(kind, struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values))


def text(directory: Mapping[int, Tag], tag: int) -> str:
    """An ASCII value; UTF-8 is understood, as most writers use it there. Empty if there is none."""
    value = directory.get(tag)
    if value is None or value.type not in (ASCII, BYTE, UNDEFINED):
        return ""
    return value.data.rstrip(b"\0").decode("utf-8", "replace")
