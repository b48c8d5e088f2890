"""Callbacks: what they are told, what their answers do, and that the cache knows of them by their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.batches import draw, outputs
from tests.finders import face, finding
from tilehires.batch.runner import generate, run
from tilehires.batch.summary import Summary
from tilehires.callbacks import BeforeSampling, BeforeSecondPass, Callbacks, Hook, SamplingChange, SecondPassChange
from tilehires.config import Config

WRONG: Any = object()
QUICK = {
    "hires": {"steps": 2, "denoise": 0.3, "upscaler": "Lanczos"},
    "generate": {"seed": 5, "width": 32, "height": 32, "steps": 2},
    "check": {"enabled": False},
    "run": {"decode_isolated": False, "metadata": False},
}


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.load().with_layer(QUICK, "test")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw(tmp_path / "in" / "a.png", 24, 16)
    return tmp_path / "in"


def second_pass(function: Callable[[BeforeSecondPass], Any], key: str | None = "one") -> Callbacks:
    return Callbacks(before_second_pass=Hook(function, key=key))


def sampling(function: Callable[[BeforeSampling], Any], key: str | None = "one") -> Callbacks:
    return Callbacks(before_sampling=Hook(function, key=key))


def facts(summary: Summary, stage: str) -> dict[str, Any]:
    [record] = summary.records
    assert record.status == "done", record.error
    return next(dict(one.facts) for one in record.stages if one.name == stage)


def test_values_that_a_callback_gives_are_those_of_the_settings(config: Config, source: Path, tmp_path: Path) -> None:
    told: list[BeforeSecondPass] = []

    def otherwise(moment: BeforeSecondPass) -> SecondPassChange:
        told.append(moment)
        return SecondPassChange(prompt="a red fox", negative_prompt="blurry", denoise=0.2, steps=3, seed=9)

    made = run(config, source, tmp_path / "asked", callbacks=second_pass(otherwise))
    assert facts(made, "hires")["steps_run"] == 3 and facts(made, "hires")["callback"]["seed"] == 9
    values = {"prompt": "a red fox", "negative_prompt": "blurry", "denoise": 0.2, "steps": 3, "seed": 9}
    run(config.with_layer({"hires": values}, "test"), source, tmp_path / "set")
    assert outputs(tmp_path / "asked") == outputs(tmp_path / "set")
    [moment] = told
    assert (moment.image, moment.stage, moment.denoise, moment.steps, moment.seed) == ("a.png", "hires", 0.3, 2, 5)
    assert moment.upscaled is not None
    assert (moment.source.shape, moment.upscaled.shape) == ((16, 24, 3), (32, 48, 3))
    with pytest.raises(ValueError, match="read-only"):
        moment.upscaled[0] = 0


def test_pixels_that_a_callback_gives_are_painted_on(config: Config, source: Path, tmp_path: Path) -> None:
    def mirrored(moment: BeforeSecondPass) -> SecondPassChange | None:
        assert moment.upscaled is not None
        return SecondPassChange(pixels=moment.upscaled[:, ::-1]) if moment.stage == "hires" else None

    whole = config.with_layer({"hires": {"denoise": 0.05}}, "test")
    made = run(whole, source, tmp_path / "mirrored", callbacks=second_pass(mirrored))
    assert facts(made, "hires")["callback"] == {"pixels": True}
    run(whole, source, tmp_path / "plain")
    run(whole, source, tmp_path / "none", callbacks=second_pass(lambda moment: None))
    assert outputs(tmp_path / "none") == outputs(tmp_path / "plain"), "None changes no bit"

    def pixels(name: str) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.open(tmp_path / name / "a.png").convert("RGB"), np.float32)

    apart = np.abs(pixels("mirrored")[:, ::-1] - pixels("plain")).mean()
    assert apart < np.abs(pixels("mirrored") - pixels("plain")).mean() / 3


def test_a_key_takes_part_in_the_fingerprint_and_none_turns_the_cache_off(
    config: Config, source: Path, tmp_path: Path
) -> None:
    calls: list[str] = []

    def noted(moment: BeforeSampling) -> None:
        calls.append(moment.name)

    def asked(callbacks: Callbacks | None) -> tuple[int, bool]:
        """How often the callback was called, and whether the image came from the cache."""
        calls.clear()
        summary = run(config, source, tmp_path / "out", callbacks=callbacks)
        return len(calls), summary.records[0].cached

    assert asked(sampling(noted, "one")) == (1, False)
    assert asked(sampling(noted, "one")) == (0, True)
    assert asked(sampling(noted, "two")) == (1, False)
    assert asked(sampling(noted, None)) == (1, False)
    assert asked(sampling(noted, None)) == (1, False), "without a key no run takes from another"
    draw(source / "b.png", 24, 16)
    assert asked(sampling(noted, "two")) == (1, False), "the same picture under another name, of which it is told"
    assert asked(None)[1] is False and asked(None)[1] is True


def test_every_sampling_is_told_of(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, face(4, 4, 24, 24))
    told: list[tuple[str, str, int]] = []

    def noted(moment: BeforeSampling) -> None:
        assert moment.conditioning.batch == len(moment.latents)
        told.append((moment.stage, moment.name, moment.latents.shape[-1]))

    tiled = {"redraw": "chess", "tile_max": 80, "redraw_padding": 8, "redraw_mask_blur": 2}
    tiled |= {"seam_fix": "band", "seam_width": 16, "seam_padding": 8, "seam_mask_blur": 2}
    region = {"detector": "face", "width": 64, "height": 64, "steps": 1}
    larger = config.with_layer(
        {"hires": {"scale": 4, "steps": 1}, "tiled": tiled, "detail": {"passes": [region]}}, "test"
    )
    summary = generate(larger, ("a fox",), tmp_path / "out", callbacks=sampling(noted))
    assert summary.exit_code == 0
    assert told[:2] == [("generate", "generate: sampling", 32), ("hires", "hires: sampling", 32)]
    assert told[2][:2] == ("detail.hires", "detail.hires.1: sampling")
    assert [one[:2] for one in told[3:7]] == [("tiled.1", "tiled.1: redraw")] * 4, "a tile at a time"
    assert len(told) > 7 and {one[:2] for one in told[7:]} == {("tiled.1", "tiled.1: seams")}


def test_latents_and_conditioning_that_a_callback_gives_are_used(config: Config, source: Path, tmp_path: Path) -> None:
    def made(name: str, answer: Callable[[BeforeSampling], SamplingChange | None]) -> dict[str, bytes]:
        assert run(config, source, tmp_path / name, callbacks=sampling(answer, name)).exit_code == 0
        return outputs(tmp_path / name)

    plain = made("plain", lambda moment: None)
    assert made("same", lambda moment: SamplingChange(moment.latents, moment.conditioning)) == plain
    assert made("latents", lambda moment: SamplingChange(moment.latents * 0.5)) != plain

    def deaf(moment: BeforeSampling) -> SamplingChange:
        heard = moment.conditioning
        return SamplingChange(conditioning=replace(heard, embeds=torch.ones_like(heard.embeds) * 3))

    assert made("deaf", deaf) != plain


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        (second_pass(lambda moment: 1), "answered a int"),
        (second_pass(lambda moment: SecondPassChange(denoise=0.0)), "denoise = 0.0"),
        (second_pass(lambda moment: SecondPassChange(seed=-1)), "out of range"),
        (second_pass(lambda moment: SecondPassChange(pixels=moment.source)), "shape (32, 48, 3)"),
        (second_pass(lambda moment: SecondPassChange(prompt="<lora:gone:1>")), "'gone'"),
        (sampling(lambda moment: SamplingChange(moment.latents[..., :3])), "latents of shape"),
        (sampling(lambda moment: SamplingChange(conditioning=WRONG)), "must give a Conditioning"),
    ],
)
def test_an_answer_that_can_not_be_used_fails_the_image(
    config: Config, source: Path, tmp_path: Path, callbacks: Callbacks, said: str
) -> None:
    [record] = run(config, source, tmp_path / "out", callbacks=callbacks).records
    assert record.error is not None and record.error.type == "ImageError" and said in record.error.message
    assert "python-api.md" in record.error.hint
