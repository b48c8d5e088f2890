"""A TIFF writer for 8 and 16 bit: Pillow has no 16-bit colour, and OpenCV writes no metadata.

Deflate with horizontal differencing (TIFF 6.0, section 14; compression 8), in strips, so that no second copy is made.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO, Any

from numpy.typing import NDArray

from tilehires.errors import ImageError
from tilehires.images.directory import BYTE, RATIONAL, SHORT, UNDEFINED, Directory, Order, Tag, integers, pack
from tilehires.images.exif import Exif, parse_exif

_STRIP_BYTES = 1 << 20
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825


def write_tiff(
    stream: IO[bytes],
    samples: NDArray[Any],
    *,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    iptc: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Write uint8 or uint16 samples, H × W × (1 grey, 2 grey + alpha, 3 RGB, 4 RGB + alpha), into an empty stream.

    `exif` is an EXIF block without prefix; its main directory's tags become the file's. Raises ImageError above 4 GB.
    """
    block = (parse_exif(exif) if exif else None) or Exif()
    order = block.order  # the block's values are in its byte order, and a file has only one
    height, width, channels = samples.shape
    rows = max(1, _STRIP_BYTES // (width * channels * samples.itemsize))
    stream.write((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    offsets, lengths = _write_strips(stream, samples, rows, order)
    tags: Directory = dict(block.main) | {
        256: integers(order, width),
        257: integers(order, height),
        258: integers(order, *[samples.itemsize * 8] * channels, kind=SHORT),
        259: integers(order, 8, kind=SHORT),
        262: integers(order, 1 if channels < 3 else 2, kind=SHORT),
        273: integers(order, *offsets),
        274: integers(order, 1, kind=SHORT),
        277: integers(order, channels, kind=SHORT),
        278: integers(order, rows),
        279: integers(order, *lengths),
        317: integers(order, 2, kind=SHORT),
    }
    if channels in (2, 4):
        tags[338] = integers(order, 2, kind=SHORT)  # alpha that is not multiplied into the colour
    if dpi:
        tags[282], tags[283] = (Tag(RATIONAL, struct.pack(order + "II", round(value * 100), 100)) for value in dpi)
        tags[296] = integers(order, 2, kind=SHORT)
    if icc:
        tags[34675] = Tag(UNDEFINED, icc)
    if xmp:
        tags[700] = Tag(BYTE, xmp)
    if iptc:
        tags[33723] = Tag(UNDEFINED, iptc)
    for pointer, directory in ((_EXIF_IFD, block.exif), (_GPS_IFD, block.gps)):
        if directory:
            tags[pointer] = integers(order, _append(stream, directory, order))
    start = _append(stream, tags, order)
    stream.seek(4)
    stream.write(struct.pack(order + "I", start))


def _write_strips(stream: IO[bytes], samples: NDArray[Any], rows: int, order: Order) -> tuple[list[int], list[int]]:
    offsets: list[int] = []
    lengths: list[int] = []
    for top in range(0, samples.shape[0], rows):
        strip = samples[top : top + rows]
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]  # wraps around, as the format wants
        data = zlib.compress(differences.astype(samples.dtype.newbyteorder(order), copy=False).tobytes(), 6)
        position = stream.tell()
        if position + len(data) > 2**32 - 2**24:
            raise ImageError(
                "The image is larger than a TIFF can hold (4 GB).", hint="Write PNG: --set run.format=png."
            )
        offsets.append(position)
        lengths.append(len(data))
        stream.write(data + b"\0" * (len(data) & 1))
    return offsets, lengths


def _append(stream: IO[bytes], directory: Directory, order: Order) -> int:
    data, at = pack(directory, order, stream.tell())
    stream.write(data + b"\0" * (len(data) & 1))
    return at
