"""Every kind of file in, the same file out: pixels, profile, EXIF, texts; and a clear message for what is no image."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from tilehires.errors import ConfigError, ImageError
from tilehires.geometry import Size
from tilehires.images import FileFormat, Picture, check_writable, probe, read, write
from tilehires.images.directory import ASCII, LONG, SHORT, UNDEFINED, Tag, integers
from tilehires.images.exif import Exif, exif_orientation, parse_exif

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


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_lossless_formats_give_every_sample_back(
    tmp_path: Path, format: FileFormat, bits: int, alpha: bool, grey: bool
) -> None:
    wanted = picture(bits=bits, alpha=alpha, grey=grey)
    path = tmp_path / f"image.{format}"
    write(path, wanted, format=format)
    got = read(path)
    np.testing.assert_array_equal(got.pixels, wanted.pixels)
    assert (got.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(got.alpha, wanted.alpha)
    assert got.bits == bits
    # Only 16-bit grey with alpha is widened to colour: OpenCV can't write it in PNG, Pillow can't read it in TIFF.
    assert got.grey == (grey and not (bits == 16 and alpha))
    assert probe(path).size == wanted.size
    assert probe(path).bits == bits
    assert probe(path).alpha == alpha


def test_eight_bit_values_are_rounded_to_nearest_not_cut(tmp_path: Path) -> None:
    values = np.array([0.0, 0.49, 0.5, 1.49, 1.5, 254.5, 255.0, -3.0, 300.0], np.float32) / np.float32(255)
    pixels = np.repeat(values[np.newaxis, :, np.newaxis], 3, axis=2)
    write(tmp_path / "a.png", Picture(pixels))
    with Image.open(tmp_path / "a.png") as image:
        assert list(np.asarray(image)[0, :, 0]) == [0, 0, 1, 1, 2, 255, 255, 0, 255]


@pytest.mark.parametrize(("format", "quality"), [("jpeg", 95), ("webp", 95), ("avif", 95), ("webp", 100)])
def test_lossy_formats_stay_near_and_lossless_webp_is_exact(tmp_path: Path, format: FileFormat, quality: int) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    smooth = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.float32(0.5)), axis=2)
    path = tmp_path / "image"
    write(path, Picture(np.ascontiguousarray(smooth)), format=format, quality=quality)
    got = read(path)
    assert got.format == format
    limit = 0.5 / 255 + 1e-6 if quality == 100 else 0.03
    assert np.abs(got.pixels - smooth).max() <= limit, f"{format} at quality {quality} is further off than {limit}"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_equal_pictures_give_equal_bytes_and_leave_no_temporary(tmp_path: Path, format: FileFormat, bits: int) -> None:
    source = replace(
        picture(bits=bits), texts={"parameters": INFOTEXT, "tilehires": "{}"}, icc=SRGB, exif=camera_exif()
    )
    for name in ("a", "b"):
        write(tmp_path / name, source, format=format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


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


def test_palette_and_transparency_keys_become_colour_and_alpha(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=1)
    got = read(tmp_path / "p.png")
    np.testing.assert_array_equal(got.pixels[0], np.eye(3, dtype=np.float32))
    assert got.alpha is not None and list(got.alpha[0]) == [1, 0, 1]
    Image.fromarray(np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8)).save(tmp_path / "k.png", transparency=(1, 2, 3))
    got = read(tmp_path / "k.png")
    assert got.alpha is not None and list(got.alpha[0]) == [1, 0]
    Image.fromarray(np.array([[9, 5]], np.uint8)).save(tmp_path / "l.png", transparency=5)
    got = read(tmp_path / "l.png")
    assert got.grey and got.alpha is not None and list(got.alpha[0]) == [1, 0]


def test_one_bit_images_are_grey(tmp_path: Path) -> None:
    Image.new("1", (3, 2), 1).save(tmp_path / "a.png")
    got = read(tmp_path / "a.png")
    assert got.grey and got.pixels.min() == 1


def test_cmyk_is_converted_to_srgb_and_said_so(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    got = read(tmp_path / "a.jpg")
    assert got.pixels[0, 0, 0] > 0.9 and got.pixels[0, 0, 1] < 0.1, "CMYK red must read as red"
    assert got.icc is None
    assert any("CMYK" in note for note in got.notes)


def test_lab_is_converted_to_srgb(tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    red = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (255, 0, 0)), ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
    )
    assert red is not None
    red.save(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif").pixels[0, 0], [1, 0, 0], atol=0.03)


def test_a_profile_of_another_colour_space_is_left_out(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 90).save(tmp_path / "a.png", icc_profile=SRGB)
    got = read(tmp_path / "a.png")
    assert got.icc is None
    assert any("profile" in note for note in got.notes)
    notes = write(tmp_path / "b.png", replace(picture(grey=True), icc=SRGB))
    assert any("profile" in note for note in notes) and read(tmp_path / "b.png").icc is None


def test_jpeg_puts_transparency_on_white(tmp_path: Path) -> None:
    clear = Picture(np.zeros((8, 8, 3), np.float32), alpha=np.zeros((8, 8), np.float32))
    notes = write(tmp_path / "a.jpg", clear, format="jpeg")
    assert any("white" in note for note in notes)
    assert read(tmp_path / "a.jpg").pixels.min() > 0.99


def test_colour_beneath_transparent_pixels_stays_in_lossless_webp(tmp_path: Path) -> None:
    source = replace(picture(), alpha=np.zeros((9, 13), np.float32))
    write(tmp_path / "a.webp", source, format="webp", quality=100)
    np.testing.assert_array_equal(read(tmp_path / "a.webp").pixels, source.pixels)


def test_associated_alpha_in_sixteen_bit_tiff_is_divided_out(tmp_path: Path) -> None:
    straight = RNG.integers(0, 65536, (4, 4, 3)).astype(np.int64)
    alpha = np.full((4, 4, 1), 40000)
    stored = np.concatenate([straight * alpha // 65535, alpha], axis=-1).astype("<u2").tobytes()
    (tmp_path / "a.tif").write_bytes(raw_tiff(4, 4, 4, stored, {338: integers("<", 1, kind=SHORT)}))
    got = read(tmp_path / "a.tif")
    np.testing.assert_allclose(got.pixels, straight / 65535, atol=4e-5)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("grey", [False, True])
def test_sixteen_bit_tiffs_of_either_byte_order(tmp_path: Path, order: str, grey: bool) -> None:
    source = replace(picture(bits=16, grey=grey), exif=camera_exif(order))
    write(tmp_path / "a.tif", source, format="tiff")
    assert (tmp_path / "a.tif").read_bytes()[:2] == (b"II" if order == "<" else b"MM")
    got = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(got.pixels, source.pixels)
    assert got.grey == grey and got.bits == 16


def test_white_is_zero_tiffs_are_turned_round(tmp_path: Path) -> None:
    stored = np.array([[0, 65535, 1000]], "<u2")
    data = raw_tiff(3, 1, 1, stored.tobytes(), {262: integers("<", 0, kind=SHORT)})
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_allclose(read(tmp_path / "a.tif").pixels[0, :, 0], [1, 0, 64535 / 65535], atol=1e-6)


def raw_tiff(width: int, height: int, channels: int, data: bytes, more: dict[int, Tag]) -> bytes:
    """An uncompressed 16-bit TIFF."""
    from tilehires.images.directory import pack

    tags = {
        256: integers("<", width),
        257: integers("<", height),
        258: integers("<", *[16] * channels, kind=SHORT),
        259: integers("<", 1, kind=SHORT),
        262: integers("<", 2 if channels >= 3 else 1, kind=SHORT),
        273: integers("<", 8, kind=LONG),
        277: integers("<", channels, kind=SHORT),
        278: integers("<", height),
        279: integers("<", len(data)),
    } | more
    table, at = pack(tags, "<", 8 + len(data))
    return b"II*\0" + struct.pack("<I", at) + data + table


def test_of_an_animation_the_first_frame_is_taken_and_said_so(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a.webp", "a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        got = read(tmp_path / name)
        assert got.pixels[0, 0, 0] > 0.98 and got.pixels[0, 0, 2] < 0.02, name
        assert any("2 frames" in note for note in got.notes), name


@pytest.mark.parametrize(
    "content", [b"hello, world", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" + b"\0" * 90, b"\xff\xd8\xff\xe0"]
)
def test_what_is_no_image_is_an_error_with_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for function in (read, probe):
        with pytest.raises(ImageError) as caught:
            function(tmp_path / "a.png")
        assert "a.png" in caught.value.message and caught.value.hint


def test_a_zero_byte_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match="empty"):
        read(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError):
            read(path)


def encoded(path: Path, format: FileFormat, bits: int) -> bytes:
    noise = picture(64, 64, bits=bits)
    write(path, noise, format=format)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("format", "bits"), [("png", 8), ("png", 16), ("jpeg", 8), ("webp", 8), ("tiff", 8), ("tiff", 16), ("avif", 8)]
)
def test_a_file_cut_off_anywhere_is_an_error_never_a_grey_band(tmp_path: Path, format: FileFormat, bits: int) -> None:
    data = encoded(tmp_path / "whole", format, bits)
    for part in range(1, 20):
        (tmp_path / "cut").write_bytes(data[: len(data) * part // 20])
        with pytest.raises(ImageError):
            read(tmp_path / "cut")


def test_our_own_pixel_limit_holds_and_pillows_is_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (200, 200)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="limit") as caught:
        read(tmp_path / "a.png", max_pixels=39_999)
    assert "max_pixels=40000" in caught.value.hint
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse this file now
    assert read(tmp_path / "a.png", max_pixels=40_000).size == Size(200, 200)
    assert Image.MAX_IMAGE_PIXELS == 100, "Pillow's limit is put back"


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    idat = b"IDAT" + zlib.compress(bytes(1000))
    body += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    (tmp_path / "bomb.png").write_bytes(body)
    for function in (read, probe):
        with pytest.raises(ImageError, match="limit"):
            function(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 30), (30, 20_000)])
def test_extreme_shapes_pass_or_are_refused_by_name(tmp_path: Path, size: tuple[int, int]) -> None:
    source = Picture(np.full((size[1], size[0], 3), 0.5, np.float32))
    for format in ("png", "jpeg", "tiff"):
        write(tmp_path / format, source, format=format)
        assert read(tmp_path / format).size == Size(*size)
    if max(size) > 16383:
        with pytest.raises(ImageError, match="16383") as caught:
            write(tmp_path / "webp", source, format="webp")
        assert "png" in caught.value.hint.lower()
        assert not (tmp_path / "webp").exists()
    else:
        write(tmp_path / "webp", source, format="webp")


def test_an_unknown_format_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="bmp"):
        check_writable("bmp", Size(1, 1))


def test_values_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.float32)
    pixels[2, 1, 0] = np.nan
    with pytest.raises(ImageError, match="finite"):
        write(tmp_path / "a.png", Picture(pixels))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_keeps_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.png", picture())
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


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
