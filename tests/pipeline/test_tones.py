"""The low-frequency lock in whole runs: on by default, settable, also where the input was latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.color

from tests.batches import Workplace, draw, workplace
from tilehires.config.settings import Settings, default_lock, hires_pass, tiled_pass
from tilehires.errors import ExitCode
from tilehires.geometry import Size
from tilehires.stages.tones import tones
from tilehires.tiling.lock import low_band
from tilehires.upscalers.pillow import resample

WORDS = ("--steps", "2", "--seed", "3")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def made(place: Workplace, name: str, *words: str) -> np.ndarray:
    ended = place.run(*WORDS, *words, output=place.root / name)
    assert ended.code == ExitCode.OK, ended.err
    image = cv2.imread(str(place.root / name / "a.png"))
    assert image is not None
    return image[..., ::-1].astype(np.float32) / 255


def away(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean ΔE2000 of the two, blurred."""
    pair = [skimage.color.rgb2lab(cv2.GaussianBlur(x, (0, 0), 12)) for x in (image, reference)]
    return float(skimage.color.deltaE_ciede2000(*pair).mean())


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent (bicubic)"])
def test_broad_tones_stay_by_default(place: Workplace, upscaler: str) -> None:
    draw(place.input / "a.png", 64, 48)
    before = made(place, "before", "--set", "hires.upscaler=Lanczos", "--denoise", "0")
    words = ("--set", f"hires.upscaler={upscaler}", "--denoise", "0.4")
    drift, locked = (away(made(place, k, *words, "--set", f"hires.lock={k}"), before) for k in ("0", "1"))
    assert locked < 0.7 * drift, f"{drift:.2f} without the lock, {locked:.2f} with it"
    default = made(place, "default", *words)
    assert np.array_equal(default, made(place, "1", *words, "--set", "hires.lock=1")), "it is on by default"


def test_a_repaint_may_have_its_own_colours(place: Workplace) -> None:
    draw(place.input / "a.png", 32, 32)
    default = made(place, "default", "--denoise", "0.9")
    assert np.array_equal(default, made(place, "0", "--denoise", "0.9", "--set", "hires.lock=0"))
    assert not np.array_equal(default, made(place, "1", "--denoise", "0.9", "--set", "hires.lock=1")), (
        "a strength that was asked for applies whatever the denoise"
    )


def test_the_default_falls_with_the_denoise() -> None:
    assert [default_lock(d) for d in (0.05, 0.5, 0.625, 0.75, 1.0)] == [1, 1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("hires", "tiled", "expected"),
    [
        ({}, {}, (1.0, 1.0)),
        ({"denoise": 0.7}, {"denoise": 0.3}, (default_lock(0.7), 1.0)),
        ({"lock": 0.4}, {}, (0.4, 0.4)),
        ({"lock": 0.4}, {"lock": 0.9}, (0.4, 0.9)),
        ({}, {"lock": 0.0}, (1.0, 0.0)),
    ],
    ids=str,
)
def test_tiled_inherits_from_hires(hires: dict[str, Any], tiled: dict[str, Any], expected: tuple[float, float]) -> None:
    settings = Settings.model_validate({"hires": hires, "tiled": tiled})
    assert (hires_pass(settings, 0).lock, tiled_pass(settings, 0).lock) == expected


@pytest.mark.parametrize("size", [Size(1230, 1104), Size(61, 700)], ids=str)
def test_tones_of_an_enlarged_picture_are_those_of_the_enlargement(size: Size) -> None:
    small = np.random.default_rng(0).random((size.height // 2, -(-size.width * 5 // 8), 3), dtype=np.float32)
    whole = low_band(resample(small, size).clip(0, 1))
    assert np.abs(tones(small, size) - whole).max() < 1e-5
