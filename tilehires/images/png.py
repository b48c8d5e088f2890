"""PNG chunks: reading the texts without decoding pixels, and putting metadata into a file an encoder has written bare.

PNG specification, third edition: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = "XML:com.adobe.xmp"
MAX_TEXT = 16 << 20
MAX_ALL_TEXTS = 64 << 20
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")


def read_texts(stream: IO[bytes]) -> dict[str, str]:
    """Every text of a PNG by keyword, wherever in the file it stands; the first of two equal keywords wins.

    Texts that are damaged, or larger than 16 MiB unpacked, are left out: metadata is never a reason to fail.
    """
    texts: dict[str, str] = {}
    room = MAX_ALL_TEXTS
    for kind, data in _chunks(stream, wanted=_TEXT_CHUNKS):
        parsed = _parse_text(kind, data)
        if parsed is None:
            continue
        keyword, text = parsed
        room -= len(text)
        if room < 0:
            break
        texts.setdefault(keyword, text)
    return texts


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


def _chunks(stream: IO[bytes], wanted: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    """The wanted chunks of a PNG; seeks past the others. Ends quietly where the file ends: the decoder judges that."""
    stream.seek(len(SIGNATURE))
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind in wanted and length <= MAX_TEXT:
            data = stream.read(length)
            if len(data) < length:
                return
            yield kind, data
            stream.seek(4, 1)
        else:
            stream.seek(length + 4, 1)


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
