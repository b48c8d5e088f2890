"""Whole runs over folders of real files: sizes, formats, what is kept, what is done again, and equal bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tests.batches import FAST, Workplace, draw, drawing, leftovers, outputs, workplace
from tilehires.cli import main
from tilehires.errors import ExitCode
from tilehires.report import load

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INFOTEXT = "a red square\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 4321, Size: 24x16"
DIFFUSED = ("--steps", "2", "--denoise", "0.3")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def pixels(path: Path) -> np.ndarray:
    """Floats in 8-bit levels, whatever the file holds."""
    samples = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert samples is not None, f"{path} can't be decoded"
    return samples.astype(np.float64) / (257 if samples.dtype == np.uint16 else 1)


# Formats


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An input folder of many formats, and what a run at 2x made of it."""
    root = tmp_path_factory.mktemp("mixed")
    folder = root / "in"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", INFOTEXT)
    texts.add_text("note", "kept as it is")
    draw(folder / "plain.png", 24, 16, pnginfo=texts, icc_profile=PROFILE)
    deep = drawing(20, 14, 1).astype(np.uint16) * 257 + 3
    cv2.imwrite(str(folder / "deep.png"), deep[..., ::-1])
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Ann Author"
    draw(folder / "sub" / "turned.jpg", 24, 16, 2, exif=exif, quality=95, icc_profile=PROFILE)
    draw(folder / "sub" / "web.webp", 18, 12, 3, quality=95)
    draw(folder / "print.tiff", 16, 20, 4)
    cover = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1))
    Image.fromarray(np.dstack([drawing(24, 16, 5), cover])).save(folder / "alpha.png")
    Image.fromarray(drawing(22, 18, 6)[..., 0]).save(folder / "grey.png")
    Image.fromarray(drawing(16, 16, 7)).quantize(64).save(folder / "palette.png")
    Image.fromarray(drawing(16, 12, 8)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder), "-o", str(root / "out"), "-q", *FAST])
    assert ended.value.code == ExitCode.OK
    return folder, root / "out"


def test_every_format_comes_out_at_the_exact_size_under_its_mirrored_name(mixed: tuple[Path, Path]) -> None:
    sizes = {name: size(mixed[1] / name) for name in outputs(mixed[1])}
    assert sizes == {
        "alpha.png": (48, 32),
        "cmyk.png": (32, 24),
        "deep.png": (40, 28),
        "grey.png": (44, 36),
        "palette.png": (32, 32),
        "plain.png": (48, 32),
        "print.png": (32, 40),
        "sub/turned.png": (32, 48),  # stored 24x16, turned upright
        "sub/web.png": (36, 24),
    }


@pytest.mark.parametrize("name", ["plain.png", "deep.png", "grey.png", "print.tiff", "sub/web.webp"])
def test_the_picture_is_the_same(mixed: tuple[Path, Path], name: str) -> None:
    before, after = pixels(mixed[0] / name), pixels((mixed[1] / name).with_suffix(".png"))
    smaller = cv2.resize(after, (before.shape[1], before.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(smaller - before).mean() < 4, "another picture than the input"


def test_depth_and_channels_are_as_in_the_input(mixed: tuple[Path, Path]) -> None:
    found = {name: cv2.imread(str(mixed[1] / name), cv2.IMREAD_UNCHANGED) for name in outputs(mixed[1])}
    shapes = {name: (str(image.dtype), image.shape[2:]) for name, image in found.items() if image is not None}
    assert shapes["deep.png"] == ("uint16", (3,))
    assert shapes["grey.png"] == ("uint8", ())
    assert shapes["alpha.png"] == ("uint8", (4,))
    assert shapes["plain.png"] == shapes["cmyk.png"] == shapes["palette.png"] == ("uint8", (3,))


def test_transparency_is_enlarged_beside_the_colour(mixed: tuple[Path, Path]) -> None:
    cover = pixels(mixed[1] / "alpha.png")[..., 3]
    expected = np.tile(np.interp(np.linspace(-0.25, 23.25, 48), np.arange(24), np.linspace(0, 255, 24)), (32, 1))
    assert np.abs(cover - expected).max() < 4


def test_profile_texts_and_exif_stay(mixed: tuple[Path, Path]) -> None:
    with Image.open(mixed[1] / "plain.png") as image:
        assert image.info["icc_profile"] == PROFILE
        assert image.info["note"] == "kept as it is"
        said = image.info["parameters"]
    assert said.startswith("a red square\nNegative prompt: blur\nSteps: 20, Sampler: Euler a") and "Hires" in said
    with Image.open(mixed[1] / "sub" / "turned.png") as image:
        assert image.info["icc_profile"] == PROFILE
        exif = image.getexif()
    assert exif[0x013B] == "Ann Author"
    assert exif.get(0x0112, 1) == 1, "the pixels are upright now, and the tag would turn them again"


def test_a_profile_that_no_longer_fits_is_said(mixed: tuple[Path, Path]) -> None:
    images = {image["id"]: image for image in load(mixed[1])["images"]}
    assert any("CMYK" in note for note in images["cmyk.jpg"]["notes"])


@pytest.mark.parametrize(("name", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp"), ("tiff", ".tif"), ("png", ".png")])
def test_every_output_format_is_written_under_its_name(place: Workplace, name: str, suffix: str) -> None:
    draw(place.input / "a.png")
    assert place.run(*FAST, "--set", f"run.format={name}").code == ExitCode.OK
    (found,) = outputs(place.output)
    assert found == "a" + suffix
    with Image.open(place.output / found) as image:
        assert (image.format or "").lower() == name and image.size == (48, 32)


# The report


IMAGE_KEYS = {
    *("id", "input", "output", "status", "cached", "flagged", "error", "seed"),
    *("settings", "stages", "regions", "findings"),
}


def test_the_report_is_as_documented(mixed: tuple[Path, Path]) -> None:
    report = load(mixed[1])
    assert report["version"] == 1
    assert {"started", "finished", "command", "versions", "device", "plan"} <= set(report["run"])
    assert {"tilehires", "torch", "diffusers"} <= set(report["run"]["versions"])
    assert report["summary"] == {"done": 9, "cached": 0, "flagged": 0, "failed": 0, "skipped": 0}
    for image in report["images"]:
        assert set(image) >= IMAGE_KEYS
        assert image["status"] == "done" and image["error"] is None and not image["flagged"]
        for part in ("input", "output"):
            assert set(image[part]) == {"path", "size", "sha256"} and len(image[part]["sha256"]) == 64
            assert not Path(image[part]["path"]).is_absolute()
        assert size(mixed[1] / image["output"]["path"]) == tuple(image["output"]["size"])
        assert [stage["name"] for stage in image["stages"]] == ["hires", "check", "write"]
        for stage in image["stages"]:
            assert {"name", "fingerprint", "seconds", "cached", "facts"} <= set(stage)
        assert image["settings"]["hires.scale"] == {"value": 2.0, "origin": "preset default"}
        assert image["settings"]["hires.denoise"] == {"value": 0.0, "origin": "flag --denoise"}
    assert (mixed[1] / "report" / "index.html").is_file()


def test_an_image_says_its_own_seed_and_the_others_get_one_of_their_bytes(mixed: tuple[Path, Path]) -> None:
    seeds = {image["id"]: image["seed"] for image in load(mixed[1])["images"]}
    assert seeds.pop("plain.png") == 4321
    assert len(set(seeds.values())) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds.values())


# What is done again


def test_a_second_run_does_nothing(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "sub" / "b.jpg", seed=1)
    assert place.run(*FAST).code == ExitCode.OK
    before = {name: (place.output / name).stat().st_mtime_ns for name in outputs(place.output)}
    second = place.run(*FAST)
    assert second.code == ExitCode.OK and "2 done (2 already were)" in second.out
    assert place.report()["summary"]["cached"] == 2
    assert all(stage for name in place.images() for stage in place.cached_stages(name).values())
    assert {name: (place.output / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (("--set", "tiled.upscaler=Bicubic"), {"tiled.1", "check", "write"}),
        (("--set", 'check.only=["finite"]'), {"check", "write"}),
        (("--set", "run.bits=16"), {"write"}),
        (("--set", "hires.upscaler=Box"), {"hires", "tiled.1", "check", "write"}),
        (("--force", "tiled"), {"tiled.1", "check", "write"}),
        (("--force", "hires"), {"hires", "tiled.1", "check", "write"}),
        (("--set", "memory.ram=64GB", "--set", "run.strict=true"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_change_redoes_what_follows_from_it_and_no_more(
    place: Workplace, change: tuple[str, ...], again: set[str]
) -> None:
    draw(place.input / "a.png")
    words = (*FAST, "--scale", "4")
    assert place.run(*words).code == ExitCode.OK
    assert place.run(*words, *change).code == ExitCode.OK
    assert {name for name, cached in place.cached_stages("a.png").items() if not cached} == again


def test_four_times_after_twice_goes_on_from_there(place: Workplace) -> None:
    draw(place.input / "a.png")
    assert place.run(*FAST).code == ExitCode.OK
    assert place.run(*FAST, "--scale", "4").code == ExitCode.OK
    assert place.cached_stages("a.png") == {"hires": True, "tiled.1": False, "check": False, "write": False}
    assert size(place.output / "a.png") == (96, 64)
    assert place.run(*FAST).code == ExitCode.OK
    assert size(place.output / "a.png") == (48, 32), "going back to 2x writes the 2x file again"
    assert place.cached_stages("a.png") == {"hires": True, "check": True, "write": False}


def test_a_changed_input_is_done_again_and_the_others_are_not(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    assert place.run(*FAST).code == ExitCode.OK
    draw(place.input / "a.png", seed=2)
    assert place.run(*FAST).code == ExitCode.OK
    assert {name: image["cached"] for name, image in place.images().items()} == {"a.png": False, "b.png": True}


def test_a_deleted_output_is_written_again_from_the_cache(place: Workplace) -> None:
    draw(place.input / "a.png")
    assert place.run(*FAST).code == ExitCode.OK
    before = outputs(place.output)
    (place.output / "a.png").unlink()
    assert place.run(*FAST).code == ExitCode.OK
    assert outputs(place.output) == before
    assert place.cached_stages("a.png") == {"hires": True, "check": True, "write": False}


def test_limit_does_the_first_images_alone(place: Workplace) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(place.input / name)
    ended = place.run(*FAST, "--limit", "1")
    assert ended.code == ExitCode.OK and set(outputs(place.output)) == {"a.png"} and "2 not reached" in ended.out


# Sizes


@pytest.mark.parametrize(
    ("source", "words", "expected"),
    [
        ((7, 5), ("--scale", "1.5"), (11, 8)),
        ((7, 5), ("--scale", "3"), (21, 15)),
        ((9, 9), ("--scale", "0.5"), (5, 5)),
        ((7, 5), ("--scale", "9"), (63, 45)),
        ((48, 32), ("--size", "60x60"), (60, 60)),
        ((48, 32), ("--size", "601x77"), (601, 77)),
        ((48, 32), ("--size", "100x0"), (100, 67)),
        ((48, 32), ("--scale", "4", "--max-side", "100"), (100, 67)),
        ((1, 1), ("--scale", "4"), (4, 4)),
        ((20_000, 30), (), (40_000, 60)),
    ],
    ids=str,
)
def test_the_size_is_exact(
    place: Workplace, source: tuple[int, int], words: tuple[str, ...], expected: tuple[int, int]
) -> None:
    draw(place.input / "a.png", *source)
    ended = place.run(*FAST, *words, "--strict", "--set", 'check.only=["size"]')
    assert ended.code == ExitCode.OK, ended.out + ended.err
    assert size(place.output / "a.png") == expected


def test_a_crop_keeps_the_middle(place: Workplace) -> None:
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, :20, 0] = stripes[:, 20:40, 1] = stripes[:, 40:, 2] = 200
    stripes += drawing(60, 20) // 8
    Image.fromarray(stripes).save(place.input / "a.png")
    assert place.run(*FAST, "--size", "40x40").code == ExitCode.OK
    middle = np.asarray(Image.open(place.output / "a.png"))[:, 4:-4]
    assert middle[..., 1].min() > 150 and middle[..., 0].max() < 100 and middle[..., 2].max() < 100


# With the built-in model


def test_equal_runs_write_equal_bytes(place: Workplace) -> None:
    draw(place.input / "a.png", 64, 48)
    for name in ("one", "two"):
        assert place.run(*DIFFUSED, output=place.root / name).code == ExitCode.OK
    assert outputs(place.root / "one") == outputs(place.root / "two")


def test_the_second_pass_paints_and_the_seed_counts(place: Workplace) -> None:
    draw(place.input / "a.png", 32, 32)
    words = ("--steps", "2", "--denoise", "0.5")
    made = []
    for seed in ("1", "2"):
        assert place.run(*words, "--seed", seed, output=place.root / seed).code == ExitCode.OK
        made.append(pixels(place.root / seed / "a.png"))
    assert place.run("--denoise", "0", output=place.root / "0").code == ExitCode.OK
    plain = pixels(place.root / "0" / "a.png")
    assert np.abs(made[0] - plain).mean() > 0.1, "the second pass changes nothing"
    assert np.abs(made[0] - made[1]).mean() > 0.1, "the seed changes nothing"


TILES = ("--set", "tiled.tile_min=64", "--set", "tiled.tile_max=128", "--set", "tiled.overlap=32")


def test_the_tile_batch_changes_nothing_that_shows(place: Workplace) -> None:
    draw(place.input / "a.png", 72, 48)
    for batch in ("1", "3"):
        words = (*DIFFUSED, *TILES, "--scale", "4", "--set", f"memory.tile_batch={batch}")
        assert place.run(*words, output=place.root / batch).code == ExitCode.OK
    one, three = (pixels(place.root / batch / "a.png") for batch in ("1", "3"))
    assert one.shape == (192, 288, 3)
    assert np.abs(one - three).max() <= 1
    (image,) = load(place.root / "3")["images"]
    tiles = {stage["name"]: stage["facts"].get("tiles") for stage in image["stages"]}
    assert len(tiles["tiled.1"]) >= 4, "this was to be done in tiles"
    assert len(tiles["hires"]) == 1
    covered = np.zeros((192, 288), bool)
    for x0, y0, x1, y1 in tiles["tiled.1"]:
        covered[y0:y1, x0:x1] = True
    assert covered.all(), "the reported tiles leave a part of the output out"


LATENT = (
    *("Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)"),
    *("Latent (nearest)", "Latent (nearest-exact)"),
)


def test_every_latent_mode_runs_and_each_in_its_own_way(place: Workplace) -> None:
    for number, mode in enumerate(LATENT):
        draw(place.input / f"{number}.png", 40, 30)
        (place.input / f"{number}.toml").write_text(f'[hires]\nupscaler = "{mode}"\n', encoding="utf-8")
    ended = place.run("--steps", "1", "--denoise", "0.5", "--scale", "1.7", "--seed", "1")
    assert ended.code == ExitCode.OK, ended.err
    made = {mode: pixels(place.output / f"{number}.png") for number, mode in enumerate(LATENT)}
    assert {image.shape for image in made.values()} == {(51, 68, 3)}
    before = cv2.resize(pixels(place.input / "0.png"), (68, 51), interpolation=cv2.INTER_CUBIC)
    for mode, image in made.items():
        assert np.abs(image - before).mean() < 40, f"{mode} shows something else than the input"
    assert len({image.tobytes() for image in made.values()}) >= 4, "the modes are not told apart"


def test_a_latent_mode_is_lanczos_from_the_second_step_on(place: Workplace) -> None:
    draw(place.input / "a.png", 32, 32)
    assert place.run(*DIFFUSED, "--set", "hires.upscaler=Latent", "--scale", "3").code == ExitCode.OK
    facts = {stage["name"]: stage["facts"] for stage in place.images()["a.png"]["stages"]}
    assert facts["hires"]["upscaler"] == "Latent" and facts["tiled.1"]["upscaler"] == "Lanczos"
    assert facts["hires"]["steps_run"] == facts["tiled.1"]["steps_run"] == 2


@pytest.mark.parametrize("source", [(1, 1), (700, 3)], ids=str)
def test_odd_shapes_go_through_the_model(place: Workplace, source: tuple[int, int]) -> None:
    draw(place.input / "a.png", *source)
    ended = place.run("--steps", "1", "--set", "hires.max_canvas=512")
    assert ended.code == ExitCode.OK, ended.err
    assert size(place.output / "a.png") == (2 * source[0], 2 * source[1])


def test_everything_at_once_with_the_model(mixed: tuple[Path, Path], place: Workplace) -> None:
    ended = place.run("--steps", "1", "--scale", "1.5", source=mixed[0])
    assert ended.code == ExitCode.OK, ended.err
    images = place.images()
    assert len(images) == 9 and all(image["status"] == "done" for image in images.values())
    assert not leftovers(place.output)
    assert re.fullmatch(r"9 done, \d+ flagged, 0 failed, 0 skipped\.", ended.out.splitlines()[0])


def test_python_does_what_the_command_does(place: Workplace) -> None:
    from tilehires import Config, run

    draw(place.input / "a.png")
    config: Any = Config.load().with_layer({"hires": {"denoise": 0, "upscaler": "Lanczos"}}, "python")
    summary = run(config, place.input, place.output)
    assert summary.exit_code == 0 and summary.done == 1 and size(place.output / "a.png") == (48, 32)
