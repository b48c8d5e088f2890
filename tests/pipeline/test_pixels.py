"""Between a canvas and its latents: in strips what it would be in one piece, and nothing but numbers comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tilehires.diffusion.bay import Bay
from tilehires.geometry import Box, Size
from tilehires.memory import Plan
from tilehires.progress import Silent
from tilehires.stages import Tools, pixels
from tilehires.stages.pixels import Passages, to_latents, to_pixels
from tilehires.tiling import vae
from tilehires.tiling.estimated import Deviation

MODEL = tiny.parts(tiny.sd15())
TOOLS = Tools(Bay(), Plan(1, "staged", (), 0), Silent())


def picture(width: int = 50, height: int = 70) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


@pytest.mark.parametrize("mode", ["whole", "tiled"])
def test_strips_give_what_the_whole_canvas_gives(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture()
    grown = np.pad(image, ((0, 2), (0, 6), (0, 0)), mode="symmetric")
    planes = torch.from_numpy(np.ascontiguousarray(grown.transpose(2, 0, 1)))[None] * 2 - 1
    latents = vae.encode(MODEL.vae, planes, mode=mode)
    assert torch.equal(to_latents(image, Size(56, 72), Passages(MODEL, TOOLS, mode, "x")), latents)
    expected = (vae.decode(MODEL.vae, latents, mode=mode)[0].numpy().transpose(1, 2, 0) + 1) / 2
    monkeypatch.setattr(pixels, "ROWS", 9)
    out = np.zeros_like(image)
    assert to_pixels(latents, out, Passages(MODEL, TOOLS, mode, "x"), fallback=None) == ()
    np.testing.assert_array_equal(out, expected[:70, :50])


@pytest.mark.parametrize("with_fallback", [True, False])
def test_what_is_no_number_comes_from_the_fallback_and_is_flagged(
    with_fallback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = picture(), np.zeros((70, 50, 3), np.float32)

    def decoded(model: Any, latents: Any, sink: Any, **named: Any) -> None:
        sink(0, torch.full((1, 3, 72, 56), torch.inf))  # a first attempt
        strip = torch.zeros(1, 3, 72, 56)
        strip[..., 20:60, 3:7], strip[..., 71, 55] = torch.nan, torch.inf  # the latter beyond the picture
        sink(0, strip[..., :30, :])
        sink(30, strip[..., 30:, :])

    monkeypatch.setattr(vae, "decode_into", decoded)
    monkeypatch.setattr(pixels, "ROWS", 16)
    fallback = image if with_fallback else None
    (found,) = to_pixels(torch.zeros(1), out, Passages(MODEL, TOOLS, "whole", "x"), fallback=fallback)
    assert found.value == 160 and found.box == Box(3, 20, 7, 60)
    expected = np.full_like(out, 0.5)
    expected[20:60, 3:7] = image[20:60, 3:7] if with_fallback else 0
    np.testing.assert_array_equal(out, expected)


def test_a_run_on_mapped_canvases_is_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.batches import draw, outputs
    from tilehires.batch.runner import run
    from tilehires.config import Config

    draw(tmp_path / "in" / "a.png", 24, 16)
    config = Config.load().with_layer({"hires": {"scale": 2.5, "denoise": 0.3, "steps": 1}}, "test")
    assert run(config, tmp_path / "in", tmp_path / "plain").exit_code == 0
    monkeypatch.setattr("tilehires.batch.maker.Scratch", lambda folder: mapped(folder))
    assert run(config, tmp_path / "in", tmp_path / "mapped").exit_code == 0
    assert outputs(tmp_path / "plain") == outputs(tmp_path / "mapped")


def mapped(folder: Path) -> Any:
    from tilehires.scratch import Scratch

    return Scratch(folder, least=1)


def test_a_vae_that_overflows_in_half_precision_is_recorded() -> None:
    pipe = tiny.sd15()
    pipe.vae.register_to_config(force_upcast=False)
    pipe.vae.decoder.conv_out.weight.data *= 1e4
    pipe.vae.decoder.conv_out.bias.data += 6e4  # sums go beyond float16, which ends at 65504
    model = tiny.parts(pipe)
    model.vae.half()
    passages, out = Passages(model, TOOLS, "tiled", "x"), np.zeros((70, 50, 3), np.float32)
    latents = to_latents(picture(), Size(56, 72), passages)
    assert passages.facts() == {"vae_mode": "tiled", "degradations": []}
    assert to_pixels(latents, out, passages, fallback=None) == () and np.isfinite(out).all()
    said = "vae: not finite in float16, done again in float32"
    assert passages.facts() == {"vae_mode": "tiled", "degradations": [said]}


def test_the_facts_of_an_estimate_are_in_the_units_of_pixels() -> None:
    passages = Passages(MODEL, TOOLS, "estimated", "x")
    passages.made["decode"] = vae.Passage("estimated", torch.float32, torch.float32, Deviation(0.0123456, 0.5))
    assert passages.facts()["vae_error"] == {"decode": {"rms": 0.00617, "max": 0.25}}
