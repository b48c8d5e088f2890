"""Pixels in, the same pixels out: depths, alpha, grey, palettes, colour spaces, byte orders."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.pictures import INFOTEXT, RNG, SRGB, camera_exif, picture
from tilehires.images import FileFormat, Picture, probe, read, write
from tilehires.images.directory import LONG, SHORT, Tag, integers, pack


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
