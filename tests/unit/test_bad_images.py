"""What is no whole image, or fits no format, is an error that says what to do."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pictures import picture
from tilehires.errors import ConfigError, ImageError, RunError
from tilehires.geometry import Size
from tilehires.images import FileFormat, Picture, check_writable, probe, read, write


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
    with pytest.raises(RunError, match="disk is full"):
        write(tmp_path / "a.png", picture())
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
