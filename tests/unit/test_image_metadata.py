"""What a file says beside its pixels comes out again, from every container into every other."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tests.pictures import INFOTEXT, RNG, SRGB, camera_exif, picture
from tilehires.errors import ImageError
from tilehires.geometry import Size
from tilehires.images import FileFormat, probe, read, write
from tilehires.images.directory import SHORT, UNDEFINED, Tag, integers
from tilehires.images.exif import Exif, exif_orientation, parse_exif


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_comes_out_again(tmp_path: Path, format: FileFormat, bits: int, order: str) -> None:
    texts = {"parameters": INFOTEXT, "tilehires": '{"a": "ü"}', "workflow": "x" * 3000}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
    source = replace(picture(bits=bits), texts=texts, icc=SRGB, exif=camera_exif(order), xmp=xmp, dpi=(300.0, 300.0))
    path = tmp_path / "image"
    write(path, source, format=format)
    got = read(path)
    assert got.icc == SRGB
    assert got.xmp == xmp
    assert dict(got.texts) == texts
    assert dict(probe(path).texts) == texts
    if format in ("png", "jpeg", "tiff"):
        assert got.dpi is not None and got.dpi[0] == pytest.approx(300, abs=0.02)
    assert got.exif is not None
    block = parse_exif(got.exif)
    assert block is not None
    assert block.main[0x010F].data == "Müller Kamera\0".encode()
    assert block.exif[0x927C].data == b"MAKER" * 9
    assert block.exif[0x829A].data == struct.pack(order + "II", 1, 60)
    assert block.gps[0x0001].data == b"N\0"
    with Image.open(path) as image:  # another reader agrees that the block is well formed
        assert image.getexif().get_ifd(0x8769)[0xA002] == 13
        assert image.getexif()[0x010F]


def test_a_maker_note_stays_at_its_place_in_the_block(tmp_path: Path) -> None:
    exif = camera_exif()
    source = replace(picture(), exif=exif, texts={"parameters": INFOTEXT})
    write(tmp_path / "a.jpg", source, format="jpeg")
    got = read(tmp_path / "a.jpg").exif
    assert got is not None
    assert got.index(b"MAKERMAKER") == exif.index(b"MAKERMAKER"), "its inner offsets count from the block's start"


@pytest.mark.parametrize("bits", [8, 16])
def test_other_readers_see_the_infotext_in_a_png_before_the_pixels(tmp_path: Path, bits: int) -> None:
    write(tmp_path / "a.png", replace(picture(bits=bits), texts={"parameters": INFOTEXT}, icc=SRGB))
    with Image.open(tmp_path / "a.png") as image:  # header only: as A1111's "PNG Info" and Civitai look for it
        assert image.info["parameters"] == INFOTEXT
        assert image.info["icc_profile"] == SRGB
        image.load()


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_readers_see_the_infotext_in_user_comment(tmp_path: Path, format: FileFormat) -> None:
    write(tmp_path / "a", replace(picture(), texts={"parameters": INFOTEXT}), format=format)
    with Image.open(tmp_path / "a") as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == INFOTEXT


def test_captions_survive_where_there_is_a_place_and_are_named_where_not(tmp_path: Path) -> None:
    captions = b"\x1c\x02\x78\x00\x05Hello"
    source = replace(picture(), iptc=captions)
    for format in ("jpeg", "tiff"):
        assert write(tmp_path / format, source, format=format) == ()
        assert read(tmp_path / format).iptc == captions
    assert any("IPTC" in note for note in write(tmp_path / "png", source))


def test_a_photographers_comment_survives_the_infotext(tmp_path: Path) -> None:
    block = parse_exif(camera_exif())
    assert block is not None
    block.exif[0x9286] = Tag(UNDEFINED, b"ASCII\0\0\0our holiday")
    source = replace(picture(), exif=block.dump())
    write(tmp_path / "plain.jpg", source, format="jpeg")
    assert dict(read(tmp_path / "plain.jpg").texts) == {}, "an ordinary comment is no infotext"
    write(tmp_path / "a.jpg", replace(source, texts={"parameters": INFOTEXT}), format="jpeg")
    assert dict(read(tmp_path / "a.jpg").texts) == {"parameters": INFOTEXT, "UserComment": "our holiday"}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_user_comments_of_either_byte_order_are_read(tmp_path: Path, encoding: str) -> None:
    block = Exif(exif={0x9286: Tag(UNDEFINED, b"UNICODE\0" + INFOTEXT.encode(encoding))}).dump()
    assert block is not None
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    assert read(tmp_path / "a.jpg").texts["parameters"] == INFOTEXT


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_exif_orientation_is_applied_and_reset(tmp_path: Path, orientation: int, format: FileFormat) -> None:
    samples = np.asarray(Image.fromarray(RNG.integers(0, 256, (3, 2, 3), dtype=np.uint8)).resize((16, 24), 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(samples)
    image.save(tmp_path / "in", format, exif=exif, **({"quality": 100} if format != "tiff" else {}))
    with Image.open(tmp_path / "in") as stored:
        stored.load()
        wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    got = read(tmp_path / "in")
    np.testing.assert_array_equal(got.pixels, wanted.astype(np.float32) / np.float32(255))
    assert got.size == probe(tmp_path / "in").size == Size(*((24, 16) if orientation >= 5 else (16, 24)))
    assert exif_orientation(got.exif or b"") == 1
    write(tmp_path / "out", got, format=format)
    with Image.open(tmp_path / "out") as again:
        assert again.getexif().get(0x0112, 1) == 1
        assert again.size == (got.size.width, got.size.height)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_holds_for_sixteen_bit_too(tmp_path: Path, orientation: int) -> None:
    import cv2

    samples = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    png = bytearray(cv2.imencode(".png", samples[..., ::-1])[1].tobytes())
    block = Exif(main={0x0112: integers("<", orientation, kind=SHORT)}).dump() or b""
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    (tmp_path / "a.png").write_bytes(png[:33] + chunk + png[33:])
    turned = {1: samples, 3: samples[::-1, ::-1], 6: np.rot90(samples, -1), 8: np.rot90(samples)}[orientation]
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, turned.astype(np.float32) / np.float32(65535))


def test_xmp_orientation_counts_where_exif_is_silent_and_is_reset(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png", pnginfo=info)
    got = read(tmp_path / "a.png")
    assert got.size == Size(2, 4)
    assert got.xmp is not None and b'tiff:Orientation="1"' in got.xmp


def test_large_texts_are_read_wherever_they_stand_and_bombs_among_them_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.png", replace(picture(), texts={"workflow": "w" * 3_000_000}))
    assert len(read(tmp_path / "a.png").texts["workflow"]) == 3_000_000
    data = (tmp_path / "a.png").read_bytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    late = chunk(b"tEXt", b"late\0text") + chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(100 << 20)))
    (tmp_path / "b.png").write_bytes(data[:-12] + late + data[-12:])
    texts = probe(tmp_path / "b.png").texts
    assert texts["late"] == "text" and "bomb" not in texts


@pytest.mark.parametrize(
    "break_it",
    [lambda b: b[:20], lambda b: b[:4] + b"\xff" * 4 + b[8:], lambda b: b"garbage", lambda b: b[:8] + b"\xff" * 300],
)
def test_damaged_exif_is_left_out_and_never_stops_an_image(tmp_path: Path, break_it: Callable[[bytes], bytes]) -> None:
    block = break_it(camera_exif(orientation=6))
    data = io.BytesIO()
    Image.new("RGB", (4, 2)).save(data, "JPEG")
    segment = b"Exif\0\0" + block
    (tmp_path / "a.jpg").write_bytes(
        b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data.getvalue()[2:]
    )
    got = read(tmp_path / "a.jpg")
    write(tmp_path / "b.jpg", got, format="jpeg")
    assert read(tmp_path / "b.jpg").size == got.size


def test_metadata_too_large_for_jpeg_keeps_the_infotext_or_says_what_to_do(tmp_path: Path) -> None:
    big = {"parameters": INFOTEXT, "workflow": "w" * 80_000}
    notes = write(tmp_path / "a.jpg", replace(picture(), texts=big), format="jpeg")
    assert any("infotext" in note for note in notes)
    assert dict(read(tmp_path / "a.jpg").texts) == {"parameters": INFOTEXT}
    with pytest.raises(ImageError) as caught:
        write(tmp_path / "b.jpg", replace(picture(), texts={"parameters": "x" * 80_000}), format="jpeg")
    assert "PNG" in caught.value.hint
