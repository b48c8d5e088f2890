"""Inpainting in our loop against diffusers' own pipelines, with UNets of 4 and of 9 channels; masks are cropped per tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)

from tests import tiny
from tests.tiny import noise
from tilehires.diffusion import inpaint, prompts, samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.inpaint import Inpaint
from tilehires.diffusion.noise import StockNoise
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.sampling import Steps
from tilehires.geometry import Size
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid, elastic_grid

SIZE = Size(64, 48)
PAIRS = [
    ("DPM++ 2M", "Karras"),
    ("DPM++ 2M SDE", "Exponential"),
    ("DPM++ 3M SDE", "Exponential"),
    ("DPM++ SDE", "Karras"),
    ("Euler", "Uniform"),
    ("Euler a", "Uniform"),
    ("Heun", "Uniform"),
    ("DDIM", "Uniform"),
    ("PLMS", "Uniform"),
    ("UniPC", "Uniform"),
]
FAMILIES: dict[str, tuple[Callable[..., Any], Any]] = {
    "sd15": (tiny.sd15, StableDiffusionInpaintPipeline),
    "sdxl": (tiny.sdxl, StableDiffusionXLInpaintPipeline),
}


@pytest.fixture(scope="module", params=[(name, channels) for name in FAMILIES for channels in (4, 9)], ids=str)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(a tiny pipeline, the kind of the stock inpaint pipeline)."""
    name, channels = request.param
    build, kind = FAMILIES[name]
    return build(channels=channels), kind


def pixel_mask() -> torch.Tensor:
    """1×1×48×64: a part that isn't the same in any two tiles."""
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., 8:36, 16:50] = 1
    return mask


def some_inpaint(channels: int) -> Inpaint:
    cells = torch.nn.functional.interpolate(pixel_mask(), size=(6, 8))
    return Inpaint(cells, noise(1, 4, 6, 8, seed=1), noise(1, 4, 6, 8, seed=2) if channels == 9 else None)


def stock(family: tuple[Any, Any], scheduler: Any, strength: float, cfg: float = 7.0) -> torch.Tensor:
    pipe, kind = family
    made = kind(**{**pipe.components, "scheduler": scheduler})
    made.set_progress_bar_config(disable=True)
    whole = some_inpaint(9)
    return made(
        prompt="a cat",
        negative_prompt="blurry",
        image=whole.original,
        mask_image=pixel_mask(),
        masked_image_latents=whole.masked,
        width=SIZE.width,
        height=SIZE.height,
        strength=strength,
        num_inference_steps=5,
        guidance_scale=cfg,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images


def ours(family: tuple[Any, Any], scheduler: Any, part: Inpaint, strength: float, **options: Any) -> torch.Tensor:
    model = tiny.parts(family[0])
    cfg = options.pop("cfg", 7.0)
    return sampling.sample(
        model,
        prompts.encode(model, "a cat", "blurry", guided=cfg > 1),
        None if strength == 1 else part.original,
        scheduler=scheduler,
        steps=Steps(5, 5 - int(5 * strength)),
        cfg=cfg,
        noise=options.pop("noise", StockNoise(torch.Generator().manual_seed(5))),
        size=options.pop("size", SIZE),
        inpaint=part,
        **options,
    ).latents


@pytest.mark.parametrize(
    ("sampler", "schedule", "strength"),
    [*((*pair, 0.6) for pair in PAIRS), ("Euler a", "Uniform", 1.0), ("DPM++ 2M", "Karras", 1.0)],
)
def test_one_covering_tile_is_the_stock_pipelines_bit_for_bit(
    family: tuple[Any, Any], sampler: str, schedule: str, strength: float
) -> None:
    pipe = family[0]
    config, channels = pipe.scheduler.config, pipe.unet.config["in_channels"]
    want = stock(family, samplers.make(sampler, schedule, config), strength)
    covering = TiledDenoiser(TileGrid.whole(Size(8, 6)))
    scheduler = samplers.make(sampler, schedule, config)
    got = ours(family, scheduler, some_inpaint(channels), strength, denoiser=covering)
    assert torch.isfinite(want).all()
    assert torch.equal(got, want), f"{sampler} {schedule}: off by up to {(got - want).abs().max()}"


def test_without_guidance_it_is_the_stock_pipelines_too(family: tuple[Any, Any]) -> None:
    config, channels = family[0].scheduler.config, family[0].unet.config["in_channels"]
    want = stock(family, samplers.make("Euler a", "Uniform", config), 0.6, cfg=1.0)
    got = ours(family, samplers.make("Euler a", "Uniform", config), some_inpaint(channels), 0.6, cfg=1.0)
    assert torch.equal(got, want)


def test_prepared_from_pixels_it_is_what_the_stock_pipeline_encodes() -> None:
    """But for the VAE's sample, which the stock pipeline draws: given the same latents it agrees (tests above)."""
    model = tiny.parts(tiny.sd15(channels=9))
    pixels = noise(1, 3, 48, 64, seed=3).clamp(-1, 1)
    part = inpaint.prepare(model, pixels, pixel_mask() * 0.7, mode="whole")
    with torch.no_grad():
        scale = model.vae.config["scaling_factor"]
        masked = model.vae.encode(pixels * (pixel_mask() < 0.5)).latent_dist.mode() * scale
        assert torch.equal(part.original, model.vae.encode(pixels).latent_dist.mode() * scale)
    assert part.masked is not None and torch.equal(part.masked, masked)
    assert torch.equal(part.mask, some_inpaint(9).mask)
    plain = inpaint.prepare(tiny.parts(tiny.sd15()), pixels, pixel_mask(), mode="whole")
    assert plain.masked is None, "a UNet that sees no mask needs no second trip through the VAE"


def test_what_the_mask_keeps_is_kept_exactly(family: tuple[Any, Any]) -> None:
    config, channels = family[0].scheduler.config, family[0].unet.config["in_channels"]
    part = some_inpaint(channels)
    made = ours(family, samplers.make("Euler a", "Uniform", config), part, 0.6)
    kept = (part.mask == 0).expand_as(made)
    # An inpainting model isn't blended: it keeps by itself, and nearly.
    assert torch.equal(made[kept], part.original[kept]) == (channels == 4)
    assert not torch.equal(made[~kept], part.original[~kept])


def test_every_tile_sees_its_own_part_of_the_mask() -> None:
    pipe, seen = tiny.sd15(channels=9), []
    pipe.unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][:, 4:].clone()))
    ramp = torch.linspace(0, 1, 24 * 40).reshape(1, 1, 24, 40)
    part = Inpaint(ramp, noise(1, 4, 24, 40, seed=1), noise(1, 4, 24, 40, seed=2))
    grid = elastic_grid(Size(40, 24), tile_max=16, overlap=4, multiple=8)
    ours(
        (pipe, None),
        samplers.make("Euler", "Uniform", pipe.scheduler.config),
        part,
        0.2,
        size=Size(320, 192),
        denoiser=TiledDenoiser(grid, 3),
    )
    boxes = [tile.box for tile in grid.tiles]
    assert len(boxes) > 3
    groups = [boxes[i : i + 3] for i in range(0, len(boxes), 3)]
    for number, group in enumerate(groups):
        want = [part.channels[(..., *box.slices)] for box in group] * 2  # unconditional entry, then conditional
        assert torch.equal(seen[number], torch.cat(want)), f"tiles {group} got another part of the mask"


def test_in_tiles_what_the_mask_keeps_is_kept_and_batches_dont_matter() -> None:
    pipe = tiny.sd15()
    mask = torch.zeros(1, 1, 24, 40)
    mask[..., 5:20, 7:31] = 1
    part = Inpaint(mask, noise(1, 4, 24, 40, seed=1))
    grid = elastic_grid(Size(40, 24), tile_max=16, overlap=4, multiple=8)
    made = [
        ours(
            (pipe, None),
            samplers.make("Euler a", "Uniform", pipe.scheduler.config),
            part,
            0.4,
            size=Size(320, 192),
            denoiser=TiledDenoiser(grid, batch),
        )
        for batch in (1, 4)
    ]
    kept = (mask == 0).expand_as(made[0])
    assert torch.equal(made[0][kept], part.original[kept])
    assert (made[0] - made[1]).abs().max() < 1e-3


class Echo:
    """A stand-in for a UNet of `channels` that finds all noise in the latents; and for its VAE."""

    dtype = torch.float32

    def __init__(self, channels: int, depth: int) -> None:
        self.config = {"in_channels": channels, "latent_channels": depth, "block_out_channels": [1] * 4}
        self.seen: set[int] = set()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **conditions: Any) -> tuple[torch.Tensor]:
        self.seen.add(x.shape[1])
        return (x[:, : self.config["latent_channels"]] * 0.1,)


@pytest.mark.parametrize("channels", [8, 17])
def test_latents_of_any_depth(channels: int) -> None:
    """The stock pipelines refuse other depths than 4."""
    echo = Echo(channels, 8)
    model = Diffusion(echo, echo, (), (), tiny.sd15().scheduler.config)
    part = Inpaint(some_inpaint(4).mask, noise(1, 8, 6, 8, seed=1), noise(1, 8, 6, 8, seed=2) if channels > 8 else None)
    made = sampling.sample(
        model,
        Conditioning(torch.zeros(1, 77, 8), None, False),
        None,
        scheduler=samplers.make("Euler a", "Uniform", model.scheduler_config),
        steps=Steps(4, 0),
        cfg=1.0,
        noise=StockNoise(torch.Generator().manual_seed(5)),
        size=SIZE,
        inpaint=part,
    ).latents
    assert made.shape == (1, 8, 6, 8) and echo.seen == {channels}
    kept = (part.mask == 0).expand_as(made)
    assert torch.equal(made[kept], part.original[kept]) == (channels == 8)


def test_an_inpainting_model_without_a_mask_is_a_clear_error() -> None:
    pipe = tiny.sd15(channels=9)
    model = tiny.parts(pipe)
    scheduler = samplers.make("Euler", "Uniform", pipe.scheduler.config)
    condition = prompts.encode(model, "a cat", guided=False)
    options: dict[str, Any] = {"steps": Steps(2, 0), "cfg": 1.0, "size": SIZE}
    options |= {"noise": StockNoise(torch.Generator()), "scheduler": scheduler}
    with pytest.raises(ValueError, match="made for inpainting"):
        sampling.sample(model, condition, None, **options)
    with pytest.raises(ValueError, match="masked picture"):
        sampling.sample(model, condition, None, inpaint=some_inpaint(4), **options)
