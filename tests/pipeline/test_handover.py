"""A first pass's latents go to a latent upscaler as they are: nothing is decoded and encoded between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests import tiny
from tests.batches import Workplace, draw, outputs, workplace
from tilehires.batch.store import quantised
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import inspect
from tilehires.diffusion.noise import CanvasNoise
from tilehires.geometry import OPEN, Size
from tilehires.stages.generate import FirstNoise
from tilehires.stages.latents import enlarged_latents
from tilehires.tiling import vae
from tilehires.upscalers.latent import LatentMode

SET = {
    "generate.width": "64",
    "generate.height": "96",
    "generate.steps": "3",
    "generate.sampler": "Euler",
    "generate.scheduler": "Uniform",
    "generate.cfg": "1",
    "hires.upscaler": "Latent (bicubic)",
    "hires.denoise": "0.6",
    "hires.steps": "2",
    "hires.lock": "0",
    "check.enabled": "false",
    "run.bits": "16",
    "run.metadata": "false",
}
WORDS = tuple(word for name, value in SET.items() for word in ("--set", f"{name}={value}"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tiny.sd15(), tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def by_hand(checkpoint: Path) -> np.ndarray:
    """16-bit pixels: first pass, torch's own interpolation of its latents, second pass, the VAE's decode."""
    model = Bay().diffusion(inspect(str(checkpoint)))
    heard = prompts.encode(model, "a fox", "", guided=False)

    def sample(latents: torch.Tensor | None, steps: sampling.Steps, noise: Any, size: Size) -> torch.Tensor:
        scheduler = samplers.make("Euler", "Uniform", model.scheduler_config)
        return sampling.sample(
            model, heard, latents, scheduler=scheduler, steps=steps, cfg=1, noise=noise, size=size
        ).latents

    first = sample(None, sampling.Steps(3, 0), FirstNoise(5, "generate"), Size(64, 128))
    # 96 pixels of the first canvas's 128 are the picture.
    larger = functional.interpolate(first, scale_factor=2, mode="bicubic")[..., :24, :]
    second = sample(larger, sampling.exact_steps(2, 0.6), CanvasNoise(5, "hires"), Size(128, 192))
    return quantised((vae.decode(model.vae, second, mode="whole")[0].numpy().transpose(1, 2, 0) + 1) / 2)


def test_the_latents_are_enlarged_as_by_hand_and_nothing_is_encoded(
    place: Workplace, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("something was encoded")

    monkeypatch.setattr(vae, "encode", never)
    ended = place.command("generate", "a fox", "-o", place.output, "--checkpoint", checkpoint, *WORDS, "--seed", "5")
    assert ended.code == 0, ended.err
    [path] = place.output.glob("*.png")
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None
    np.testing.assert_array_equal(found[..., ::-1], by_hand(checkpoint))
    [image] = place.report()["images"]
    assert {stage["name"]: stage["facts"].get("latents") for stage in image["stages"]}["hires"] == "handed over"


def test_latents_from_the_cache_are_those_that_were_made(place: Workplace, checkpoint: Path) -> None:
    """A preview first, then the rest; and the same where the kept latents were damaged, or are gone."""

    def run(output: Path, *more: str) -> dict[str, bytes]:
        words = ("generate", "a fox", "-o", output, "--checkpoint", checkpoint, *WORDS, "--seed", "5", *more)
        ended = place.command(*words)
        assert ended.code == 0, ended.err
        return outputs(output)

    whole = run(place.root / "whole")
    run(place.output, "--first-pass-only")
    assert run(place.output) == whole
    cached = next(iter(place.images()))
    assert place.cached_stages(cached) == {"generate": True, "hires": False, "write": False}
    [kept] = (place.output / ".tilehires" / "cache").glob("*/*.latents.npy")
    kept.write_bytes(kept.read_bytes()[:-8] + b"\0" * 8)
    assert run(place.output, "--force", "hires") == whole
    assert not place.cached_stages(cached)["generate"], "damaged latents are made again"
    kept.unlink()
    assert run(place.output, "--force", "hires") == whole


def test_another_family_is_refused_before_any_work(place: Workplace, checkpoint: Path) -> None:
    words = ("--checkpoint", checkpoint, *WORDS, "--set", "hires.checkpoint=builtin")
    ended = place.command("generate", "a fox", "-o", place.output, *words)
    assert ended.code == 2 and "hands the first pass's latents" in ended.err and "Lanczos" in ended.err
    assert not (place.output / ".tilehires").exists()
    draw(place.input / "a.png")
    assert place.run(*words, "--set", "hires.denoise=0.1").code == 0, "an image's latents are made by hires' own VAE"


def test_latents_that_are_too_few_are_mirrored_out() -> None:
    latents = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    mode = LatentMode("Latent", "bilinear")
    made = enlarged_latents(latents, (1.37, 1.0), Size(8, 11), mode, OPEN)
    assert made.shape == (1, 4, 11, 8)
    want = mode.upscale_by(latents, (1.37, 1.0))
    torch.testing.assert_close(made[..., :9, :], want[..., :9, :])
