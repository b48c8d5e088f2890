"""SDXL's refiner: as a model of its own, and as the second UNet of a pass, against diffusers' own pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.noise import StockNoise
from tilehires.diffusion.sampling import Steps
from tilehires.geometry import Size

PROMPT, NEGATIVE = "a photo of a cat", "blurry"
SIZE = Size(64, 48)


def some_latents() -> torch.Tensor:
    return torch.randn((1, 4, 6, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def refiner() -> Any:
    made = tiny.refiner(3)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("cfg", [7.0, 1.0])
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DPM2 a"])
def test_img2img_is_the_stock_refiners_bit_for_bit(refiner: Any, sampler: str, cfg: float) -> None:
    config = refiner.scheduler.config
    refiner.scheduler = samplers.make(sampler, "Uniform", config)
    want = refiner(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=some_latents(),
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=cfg,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images
    model = tiny.parts(refiner)
    got = sampling.sample(
        model,
        prompts.encode(model, PROMPT, NEGATIVE, guided=cfg > 1),
        some_latents(),
        scheduler=samplers.make(sampler, "Uniform", config),
        steps=Steps(6, 3),
        cfg=cfg,
        noise=StockNoise(torch.Generator().manual_seed(5)),
        size=SIZE,
    )
    assert torch.isfinite(want).all()
    assert torch.equal(got.latents, want), f"off by up to {(got.latents - want).abs().max()}"
