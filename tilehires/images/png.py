"""PNG chunks: reading the texts without decoding pixels, and putting metadata into a file an encoder has written bare.

PNG specification, third edition: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import bisect
import io
import itertools
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = "XML:com.adobe.xmp"
MAX_TEXT = 16 << 20
MAX_ALL_TEXTS = 32 << 20
"""Characters; of those that need it Python takes four bytes each: 128 MiB is the most that an image's texts take."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MOST_NOTES = 5


def read_texts(stream: IO[bytes], notes: list[str]) -> dict[str, str]:
    """Every text of a PNG by keyword, wherever in the file it stands; the first of two equal keywords wins.

    Texts that are damaged, or larger than 16 MiB unpacked, or beyond 32 MiB in all, are left out, each with a line in
    `notes`: metadata is never a reason to fail.
    """
    texts: dict[str, str] = {}
    room = MAX_ALL_TEXTS
    left_out: list[str] = []
    for kind, length, data in _chunks(stream, wanted=_TEXT_CHUNKS):
        keyword = data[:80].partition(b"\0")[0].decode("latin-1")
        if keyword in texts:
            continue
        name = ascii(keyword)
        # A small file can hold thousands of texts that unpack to gigabytes: after some that failed no more is unpacked.
        fits = length <= MAX_TEXT and (kind == b"tEXt" or len(left_out) < _MOST_NOTES)
        parsed = _parse_text(kind, data) if fits else None
        if parsed is None:
            left_out.append(f"{name} ({'damaged or ' if length <= MAX_TEXT else ''}larger than {MAX_TEXT >> 20} MiB)")
        elif len(parsed[1]) > room:
            left_out.append(f"{name} (all texts together are larger than {MAX_ALL_TEXTS >> 20} MiB)")
        else:
            texts[parsed[0]] = parsed[1]
            room -= len(parsed[1])
    notes += [f"its text {one} is left out" for one in left_out[:_MOST_NOTES]]
    if len(left_out) > _MOST_NOTES:
        notes.append(f"{len(left_out) - _MOST_NOTES} more of its texts are left out")
    return texts


def without_texts(stream: IO[bytes]) -> IO[bytes]:
    """The same PNG as if its texts weren't there, but for a plain XMP packet; nothing is copied.

    For decoders that read all texts before the pixels, and fail on large ones. What isn't PNG's structure stays.
    """
    parts: list[tuple[int, int]] = []
    begin = 0
    for kind, start, end in _extents(stream):
        if kind in _TEXT_CHUNKS and not _is_xmp(stream, kind, start, end):
            parts.append((begin, start))
            begin = end
    parts.append((begin, stream.seek(0, io.SEEK_END)))
    return io.BufferedReader(_Parts(stream, parts))


def bit_depth_and_colour(stream: IO[bytes]) -> tuple[int, int]:
    """(bits per sample, colour type) from the header; colour types 0 and 4 are grey, 3 is a palette."""
    stream.seek(24)
    depth, colour = stream.read(2)
    return depth, colour


def write_with_chunks(stream: IO[bytes], encoded: memoryview, chunks: list[tuple[bytes, bytes]]) -> None:
    """Write an encoded PNG with `chunks` (type, data) put right behind its header, where every reader looks."""
    after_header = len(SIGNATURE) + 25
    if bytes(encoded[:8]) != SIGNATURE or bytes(encoded[12:16]) != b"IHDR":
        raise ValueError("the encoder gave no PNG")
    stream.write(encoded[:after_header])
    for kind, data in chunks:
        stream.write(_chunk(kind, data))
    stream.write(encoded[after_header:])


def metadata_chunks(
    *,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    texts: Mapping[str, str],
) -> list[tuple[bytes, bytes]]:
    """The ancillary chunks for this metadata, in the order the specification asks for."""
    chunks: list[tuple[bytes, bytes]] = []
    if icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if dpi:
        per_metre = [max(1, min(2**31 - 1, round(value / 0.0254))) for value in dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if exif:
        chunks.append((b"eXIf", exif))
    if xmp:
        chunks.append((b"iTXt", XMP_KEYWORD.encode() + b"\0\0\0\0\0" + xmp))
    chunks.extend(_text_chunk(keyword, text) for keyword, text in texts.items())
    return chunks


def _extents(stream: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of every chunk before IEND. Ends quietly where the file ends: the decoder judges that."""
    start = len(SIGNATURE)
    size = stream.seek(0, io.SEEK_END)
    while start + 8 <= size:
        stream.seek(start)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if kind == b"IEND":
            return
        yield kind, start, min(start + length + 12, size)
        start += length + 12


def _chunks(stream: IO[bytes], wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, bytes]]:
    """(type, length, data) of the wanted chunks; of one longer than MAX_TEXT only the first bytes."""
    for kind, start, end in _extents(stream):
        if kind not in wanted:
            continue
        stream.seek(start)
        length = struct.unpack(">I", stream.read(4))[0]
        if start + length + 8 > end:
            return  # cut off
        stream.seek(start + 8)
        yield kind, length, stream.read(length if length <= MAX_TEXT else 80)


def _is_xmp(stream: IO[bytes], kind: bytes, start: int, end: int) -> bool:
    plain = XMP_KEYWORD.encode() + b"\0\0"
    if kind != b"iTXt" or end - start > MAX_TEXT:
        return False
    stream.seek(start + 8)
    return stream.read(len(plain)) == plain


class _Parts(io.RawIOBase):
    """Parts [start, end) of a stream, one behind the other."""

    def __init__(self, stream: IO[bytes], parts: list[tuple[int, int]]) -> None:
        self._stream, self._parts = stream, [part for part in parts if part[0] < part[1]]
        lengths = [end - start for start, end in self._parts]
        self._begins = [0, *itertools.accumulate(lengths)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._begins[-1]}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        index = bisect.bisect_right(self._begins, self._at) - 1
        if index >= len(self._parts):
            return 0
        within = self._at - self._begins[index]
        start, end = self._parts[index]
        self._stream.seek(start + within)
        data = self._stream.read(min(len(buffer), end - start - within))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _parse_text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    keyword, found, rest = data.partition(b"\0")
    if not found or not keyword:
        return None
    try:
        if kind == b"zTXt":
            rest = _unpack(rest[1:])
        elif kind == b"iTXt":
            compressed, rest = rest[0], rest[2:]
            rest = rest.split(b"\0", 2)[2]  # past the language and the translated keyword
            return keyword.decode("latin-1"), (_unpack(rest) if compressed else rest).decode("utf-8", "replace")
    except (IndexError, zlib.error):
        return None
    return keyword.decode("latin-1"), rest.decode("latin-1")


def _unpack(data: bytes) -> bytes:
    """Inflate, refusing to grow past MAX_TEXT."""
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, MAX_TEXT)
    if unpacker.unconsumed_tail:
        raise zlib.error("text too large")
    return text


def _text_chunk(keyword: str, text: str) -> tuple[bytes, bytes]:
    """tEXt where Latin-1 can hold it, as A1111 does, else iTXt; uncompressed, as Pillow refuses large packed texts."""
    key = keyword.replace("\0", " ").encode("latin-1", "replace")[:79].strip() or b"Text"
    try:
        if "\0" in text:
            raise ValueError("tEXt can't hold NUL")
        return b"tEXt", key + b"\0" + text.encode("latin-1")
    except ValueError:
        return b"iTXt", key + b"\0\0\0\0\0" + text.encode("utf-8", "replace")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
