"""What people's folders really hold: each fault has its exit code and a message that helps, and the other images are done."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.batches import FAST, Ended, Workplace, draw, leftovers, outputs, refused
from tilehires.config.sidecar import read_sidecar
from tilehires.errors import ConfigError, ExitCode


def failed(place: Workplace, ended: Ended, name: str) -> str:
    """Message and hint of the one image that failed, once it is sure that the batch went on around it."""
    assert ended.code == ExitCode.IMAGES_FAILED, ended.out + ended.err
    images = place.images()
    others = {one: image["status"] for one, image in images.items() if one != name}
    assert set(others.values()) == {"done"}, f"the other images were not done: {others}"
    assert images[name]["status"] == "failed" and images[name]["output"] is None
    error = images[name]["error"]
    assert error["message"] and error["hint"], f"{error}: says nothing of what to do next"
    assert error["type"] in ("ImageError", "ConfigError"), f"{error}: a bug, not an answer"
    assert error["message"] in ended.out, "the summary doesn't say it"
    assert not leftovers(place.output)
    return f"{error['message']} {error['hint']}"


# Files that are no images


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG header of that size, with hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def cut_off(path: Path) -> None:
    draw(path, 64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "text": ("notes.png", lambda path: path.write_text("no picture at all"), "no image"),
    "truncated PNG": ("half.png", cut_off, "cut off"),
    "truncated JPEG": ("half.jpg", cut_off, "cut off"),
    "truncated WebP": ("half.webp", cut_off, "cut off"),
    "empty": ("nothing.png", lambda path: path.write_bytes(b""), "0 bytes"),
    "bomb": ("bomb.png", lambda path: path.write_bytes(png_that_claims(30_000, 30_000)), "run.max_pixels=900000000"),
    "page": ("page.jpg", lambda path: path.write_text("<!DOCTYPE html><html></html>"), "HTML"),
    "random": ("noise.tiff", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "no image"),
    "zero size": ("zero.png", lambda path: path.write_bytes(png_that_claims(0, 5)), "zero.png"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_costs_itself_alone(place: Workplace, name: str) -> None:
    file, make, expected = BROKEN[name]
    draw(place.input / "a_good.png")
    make(place.input / file)
    draw(place.input / "z_good.png", seed=1)
    assert expected in failed(place, place.run(*FAST), file)
    assert set(outputs(place.output)) == {"a_good.png", "z_good.png"}


def test_a_failed_image_is_tried_again_and_the_others_are_not(place: Workplace) -> None:
    draw(place.input / "a.png")
    cut_off(place.input / "b.png")
    failed(place, place.run(*FAST), "b.png")
    draw(place.input / "b.png")
    assert place.run(*FAST).code == ExitCode.OK
    assert {name: image["cached"] for name, image in place.images().items()} == {"a.png": True, "b.png": False}


def test_the_pixel_limit_is_ours_to_set(place: Workplace) -> None:
    draw(place.input / "large.png", 40, 30)
    draw(place.input / "small.png", 10, 10)
    draw(place.input / "grows.png", 20, 20)
    ended = place.run(*FAST, "--set", "run.max_pixels=1000")
    assert ended.code == ExitCode.IMAGES_FAILED
    images = place.images()
    assert [images[name]["status"] for name in ("large.png", "small.png", "grows.png")] == ["failed", "done", "failed"]
    assert "run.max_pixels=1200" in images["large.png"]["error"]["hint"]
    assert "--max-side" in images["grows.png"]["error"]["hint"], "1600 pixels of output are over the limit as well"


@pytest.mark.parametrize(("format", "width", "limit"), [("webp", 9000, "16383"), ("jpeg", 33_000, "65500")])
def test_what_a_format_cannot_hold_is_said_before_the_work(
    place: Workplace, format: str, width: int, limit: str
) -> None:
    draw(place.input / "good.png")
    draw(place.input / "wide.png", width, 2)
    said = failed(place, place.run(*FAST, "--set", f"run.format={format}"), "wide.png")
    assert limit in said and "run.format=png" in said


def test_links_are_skipped_and_said(place: Workplace) -> None:
    draw(place.input / "good.png")
    draw(place.root / "elsewhere.png")
    (place.input / "link.png").symlink_to(place.root / "elsewhere.png")
    (place.input / "loop").symlink_to(place.input)
    (place.input / "dangling.png").symlink_to(place.root / "nowhere.png")
    ended = place.run(*FAST)
    assert ended.code == ExitCode.OK and set(outputs(place.output)) == {"good.png"}
    assert ended.out.count("symbolic link") == 3
    assert place.report()["summary"]["skipped"] == 3
    followed = place.run(*FAST, "--set", "run.resolve_links=true")
    assert followed.code == ExitCode.OK and set(outputs(place.output)) == {"good.png", "link.png"}


# Names


def test_names_that_are_not_utf_8(place: Workplace) -> None:
    odd = place.input / os.fsdecode(b"caf\xe9 \xff.png")
    try:
        draw(odd)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    odd.with_suffix(".toml").write_text("[check]\nenabled = true\n", encoding="utf-8")
    draw(place.input / "two\nlines \u732b.png", seed=1)
    ended = place.run(*FAST)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert set(outputs(place.output)) == {odd.name, "two\nlines \u732b.png"}
    assert place.run(*FAST).code == ExitCode.OK
    assert place.report()["summary"]["cached"] == 2


NAMES = {
    "[a]*?.png": "[a]*?.png",
    "--force.png": "--force.png",
    "-o.jpg": "-o.png",
    "two\nlines\r\t.png": "two\nlines\r\t.png",
    "\u202egnp.\u732b e\u0301.png": "\u202egnp.\u732b e\u0301.png",
    "a'b\"c`$(touch ran)`;&|.png": "a'b\"c`$(touch ran)`;&|.png",
    "%2e%2e%2fup.png": "%2e%2e%2fup.png",
    "x" * 251 + ".png": "x" * 251 + ".png",
    "\u732b" * 83 + "yz.png": "\u732b" * 83 + "yz.png",
    "a..\\up\x1b[31m.png": "a..\\up\x1b[31m.png",
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_any_kind_for_inputs_sidecars_and_outputs(place: Workplace) -> None:
    for number, name in enumerate(NAMES):
        draw(place.input / name, 10, 10, number)
        (place.input / name).with_suffix(".txt").write_text(f"prompt {number}", encoding="utf-8")
        beside = place.input / f"{name}.toml"
        if len(os.fsencode(beside.name)) <= 255:
            beside.write_text("[hires]\nscale = 3\n", encoding="utf-8")
    ended = place.run("-c", no_model(place))
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert set(outputs(place.output)) == set(NAMES.values())
    assert sorted(path.name for path in place.root.iterdir()) == ["fast.toml", "in", "out"]
    for name, image in place.images().items():
        number = list(NAMES).index(name)
        assert image["settings"]["generate.prompt"]["value"] == f"prompt {number}"
        long = len(os.fsencode(name)) > 250
        assert image["output"]["size"] == ([20, 20] if long else [30, 30])
    assert place.run("-c", no_model(place)).code == ExitCode.OK
    assert place.report()["summary"]["cached"] == len(NAMES)
    assert "\x1b" not in ended.out + ended.err, "a file name may not give the terminal orders"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_too_long_with_another_ending(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / ("x" * 251 + ".png"), seed=1)
    said = failed(place, place.run(*FAST, "--set", "run.format=webp"), "x" * 251 + ".png")
    assert "too long" in said and "run.format" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_an_input_and_an_output_folder_with_odd_names(place: Workplace) -> None:
    source, output = place.root / "-in [x]\n", place.root / "--out [y] \u732b"
    draw(source / "-sub [1]" / "a.png")
    assert place.run(*FAST, source=source, output=output).code == ExitCode.OK
    assert set(outputs(output)) == {"-sub [1]/a.png"}


def test_same_stems_do_not_collide(place: Workplace) -> None:
    draw(place.input / "photo.jpg", 10, 10)
    draw(place.input / "photo.png", 20, 20, 1)
    draw(place.input / "PHOTO.webp", 30, 30, 2)
    assert place.run(*FAST).code == ExitCode.OK
    assert set(outputs(place.output)) == {"photo.jpg.png", "photo.png.png", "PHOTO.webp.png"}
    sizes = {name: image["output"]["size"] for name, image in place.images().items()}
    assert sizes == {"photo.jpg": [20, 20], "photo.png": [40, 40], "PHOTO.webp": [60, 60]}


def test_a_file_in_the_way_of_a_folder_costs_one_image(place: Workplace) -> None:
    draw(place.input / "x.jpg")
    draw(place.input / "x.png" / "y.png")
    assert "in its way" in failed(place, place.run(*FAST), "x.png/y.png")


# Files beside an image

SIDECARS = {
    "unknown key": ("[hires]\nscal = 3\n", "hires.scale"),
    "unknown section": ("[highres]\nscale = 3\n", "[hires]"),
    "out of range": ("[hires]\nscale = 0\n", "hires.scale"),
    "wrong type": ('[hires]\nscale = "much"\n', "hires.scale"),
    "no TOML": ("hires.scale: 3", "TOML"),
    "unknown upscaler": ('[hires]\nupscaler = "Lanczo"\n', "Lanczos"),
    "missing upscaler": ('[hires]\nupscaler = "/no/such/4x.pth"\n', "4x.pth"),
    "unknown sampler": ('[generate]\nsampler = "Ojler"\n', "Euler"),
    "unknown check": ('[check]\nonly = ["blak"]\n', "black"),
    "unknown limit": ("[check]\nlimits = {blak = 1}\n", "black"),
    "overlap": ("[hires]\ndenoise = 0.3\nscale = 4\nmax_canvas = 256\n[tiled]\noverlap = 2048\n", "tiled.overlap"),
    "checkpoint": ('[model]\ncheckpoint = "other.safetensors"\n', "run of its own"),
    "format": ('[run]\nformat = "jpeg"\n', "run.format"),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_a_wrong_sidecar_costs_its_image_alone(place: Workplace, name: str) -> None:
    text, expected = SIDECARS[name]
    draw(place.input / "a.png")
    draw(place.input / "b.png", 200, 200, seed=1)
    (place.input / "b.toml").write_text(text, encoding="utf-8")
    draw(place.input / "c.png", seed=2)
    # By preset, as flags would win over the sidecar.
    said = failed(place, place.run("-c", no_model(place)), "b.png")
    assert expected in said


def no_model(place: Workplace) -> Path:
    path = place.root / "fast.toml"
    path.write_text('[hires]\ndenoise = 0\nupscaler = "Lanczos"\n', encoding="utf-8")
    return path


def test_a_sidecar_that_is_no_text_costs_its_image_alone(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    (place.input / "b.txt").write_bytes(b"\xff\xfe prompt")
    assert "UTF-8" in failed(place, place.run(*FAST), "b.png")


def test_a_sidecar_that_becomes_a_pipe_or_goes_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for name in ("a.txt", "a.toml"):
        with pytest.raises(ConfigError, match="no file any more"):
            read_sidecar(tmp_path / name)


def test_a_right_sidecar_counts_for_its_image_alone(place: Workplace) -> None:
    draw(place.input / "a.png", 10, 10)
    draw(place.input / "b.png", 10, 10, 1)
    (place.input / "b.toml").write_text("[hires]\nscale = 3\n", encoding="utf-8")
    assert place.run(*FAST).code == ExitCode.OK
    images = place.images()
    assert [images[name]["output"]["size"] for name in ("a.png", "b.png")] == [[20, 20], [30, 30]]
    assert images["b.png"]["settings"]["hires.scale"] == {"value": 3.0, "origin": "sidecar b.toml"}


# Outputs that are in the way


def test_a_file_that_tilehires_did_not_make_is_not_overwritten(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    place.output.mkdir()
    (place.output / "a.png").write_bytes(b"somebody's work")
    assert "-o" in failed(place, place.run(*FAST), "a.png")
    assert (place.output / "a.png").read_bytes() == b"somebody's work"


def test_a_file_of_ours_that_was_changed_is_not_overwritten(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    assert place.run(*FAST).code == ExitCode.OK
    draw(place.output / "a.png", 5, 5)  # retouched by the user
    before = (place.output / "a.png").read_bytes()
    assert "changed since" in failed(place, place.run(*FAST, "--scale", "3"), "a.png")
    assert (place.output / "a.png").read_bytes() == before
    (place.output / "a.png").unlink()
    assert place.run(*FAST, "--scale", "3").code == ExitCode.OK


def test_a_link_or_a_folder_in_place_of_an_output_stays(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    draw(place.input / "c.png", seed=2)
    target = place.root / "precious.png"
    target.write_bytes(b"precious")
    place.output.mkdir()
    (place.output / "a.png").symlink_to(target)
    (place.output / "b.png").mkdir()
    ended = place.run(*FAST)
    assert ended.code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"a.png": "failed", "b.png": "failed", "c.png": "done"}
    assert target.read_bytes() == b"precious" and (place.output / "b.png").is_dir()


# Runs that don't begin


def test_nothing_to_do(place: Workplace) -> None:
    assert "Put images into it" in refused(place.run(*FAST), ExitCode.USAGE)
    (place.input / "notes.md").write_text("x", encoding="utf-8")
    assert "images end in" in refused(place.run(*FAST), ExitCode.USAGE)
    assert "no " in refused(place.run(*FAST, source=place.root / "nowhere"), ExitCode.USAGE)
    assert not place.output.exists(), "a run that doesn't begin leaves nothing behind"


@pytest.mark.parametrize("inside", [".", "deep", "deep/er"])
def test_the_output_inside_the_input(place: Workplace, inside: str) -> None:
    draw(place.input / "a.png")
    said = refused(place.run(*FAST, output=place.input / inside), ExitCode.USAGE)
    assert "inside" in said and "-o" in said
    assert [path.name for path in place.input.iterdir()] == ["a.png"]


def test_a_file_in_place_of_the_output_folder(place: Workplace) -> None:
    draw(place.input / "a.png")
    place.output.write_text("a file", encoding="utf-8")
    assert "-o" in refused(place.run(*FAST), ExitCode.USAGE)
    assert "-o" in refused(place.run(*FAST, output=place.output / "deeper"), ExitCode.USAGE)
    assert place.output.read_text(encoding="utf-8") == "a file"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--scale", "0"), "hires.scale"),
        (("--scale", "-2"), "hires.scale"),
        (("--scale", "much"), "hires.scale"),
        (("--scale", "nan"), "hires.scale"),
        (("--denoise", "1.5"), "hires.denoise"),
        (("--steps", "-1"), "steps"),
        (("--size", "big"), "WIDTHxHEIGHT"),
        (("--scale", "2", "--size", "5x5"), "--size"),
        (("--set", "hires.scal=2"), "hires.scale"),
        (("--set", "highres.scale=2"), "hires"),
        (("--set", "hires.scale"), "section.key=value"),
        (("--set", "hires.upscaler=Lanczo"), "Lanczos"),
        (("--set", "generate.sampler=Ojler"), "Euler"),
        (("--set", 'check.only=["blak"]'), "black"),
        (("--set", "check.limits={blak = 1}"), "black"),
        (("--set", "tiled.overlap=2000"), "tiled.overlap"),
        (("--set", "run.cache_limit=lots"), "run.cache_limit"),
        (("--set", "run.format=bmp"), "run.format"),
        (("--force", "sharpen"), "hires"),
        (("--vram", "some"), "memory.vram"),
        (("-c", "no_such_preset"), "preset"),
        (("--no-such-flag",), "--no-such-flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_settings_stop_the_run_before_it_begins(place: Workplace, words: tuple[str, ...], expected: str) -> None:
    draw(place.input / "a.png")
    ended = place.run("--denoise", "0", *words)
    assert expected in refused(ended, ExitCode.USAGE)
    assert not outputs(place.output)


# Findings


def test_a_picture_that_turned_black_is_flagged_and_strict_says_so(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilehires.upscalers.pillow import KernelUpscaler

    draw(place.input / "a.png", 64, 64)
    monkeypatch.setattr(
        KernelUpscaler, "upscale", lambda self, image, size, **_: np.zeros((size.height, size.width, 3))
    )
    first = place.run(*FAST)
    assert first.code == ExitCode.OK and "flagged  a.png: black" in first.out
    assert place.report()["summary"]["flagged"] == 1
    assert place.run(*FAST, "--strict").code == ExitCode.FLAGGED, "a cached finding counts as well"
    assert Image.open(place.output / "a.png").size == (128, 128)
