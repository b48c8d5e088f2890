"""Our sampling loop against diffusers' own pipelines: the same steps from the same noise give the same latents, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import StableDiffusionImg2ImgPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.schedulers.scheduling_utils import AysSchedules

from tests import tiny
from tilehires.diffusion import align_your_steps, prompts, samplers, sampling
from tilehires.diffusion.noise import CanvasNoise, StockNoise
from tilehires.diffusion.sampling import Sample, Steps, exact_steps
from tilehires.diffusion.syntax import Count
from tilehires.errors import Interrupted
from tilehires.geometry import Box, Size
from tilehires.progress import Silent
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid, elastic_grid

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
PROMPT, NEGATIVE = "a photo of a cat", "blurry"
SIZE = Size(64, 48)
CELLS = (1, 4, 6, 8)
PAIRS = [
    ("DPM++ 2M", "Uniform"),
    ("DPM++ 2M", "Karras"),
    ("DPM++ 2M", "SGM Uniform"),
    ("DPM++ 2M SDE", "Exponential"),
    ("DPM++ 2M SDE Heun", "Karras"),
    ("DPM++ 3M SDE", "Exponential"),
    ("DPM++ SDE", "Karras"),
    ("Euler", "Uniform"),
    ("Euler", "Beta"),
    ("Euler a", "Uniform"),
    ("Heun", "Uniform"),
    ("LMS", "Uniform"),
    ("DPM2", "Karras"),
    ("DPM2 a", "Uniform"),
    ("DDIM", "Uniform"),
    ("PLMS", "Uniform"),
    ("UniPC", "Uniform"),
    ("LCM", "Uniform"),
    ("DEIS", "Karras"),
    ("UniPC bh2", "Uniform"),
    ("DDPM", "Uniform"),
    ("TCD", "Uniform"),
    ("DDIM", "DDIM"),
]
LISTED = [(name, "Align Your Steps") for name, row in samplers.SAMPLERS.items() if row.listed]
FAMILIES: dict[str, tuple[Callable[[], Pipeline], Any, Any]] = {
    "sd15": (tiny.sd15, StableDiffusionPipeline, StableDiffusionImg2ImgPipeline),
    "sd2": (tiny.sd2, StableDiffusionPipeline, StableDiffusionImg2ImgPipeline),
    "sdxl": (tiny.sdxl, StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Pipeline, Any, Any]:
    build, text_to_image, image_to_image = FAMILIES[request.param]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    return pipe, text_to_image, image_to_image


def stock(pipe: Pipeline, kind: Any, scheduler: Any, **arguments: Any) -> torch.Tensor:
    """What diffusers' pipeline of that kind makes of the same models: latents."""
    made = kind(**{**pipe.components, "scheduler": scheduler})
    made.set_progress_bar_config(disable=True)
    return made(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        guidance_scale=7.0,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
        **arguments,
    ).images


def ours(pipe: Pipeline, scheduler: Any, latents: torch.Tensor | None, steps: Steps, **options: Any) -> Sample:
    model = tiny.parts(pipe)
    arguments: dict[str, Any] = {"noise": StockNoise(torch.Generator().manual_seed(5)), "size": SIZE, "cfg": 7.0}
    arguments |= options
    condition = prompts.encode(model, PROMPT, NEGATIVE, guided=arguments["cfg"] > 1)
    return sampling.sample(model, condition, latents, scheduler=scheduler, steps=steps, **arguments)


def some_latents() -> torch.Tensor:
    return torch.randn(CELLS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_img2img_is_the_stock_pipelines_bit_for_bit(
    family: tuple[Pipeline, Any, Any], sampler: str, schedule: str
) -> None:
    pipe, _, kind = family
    config = pipe.scheduler.config
    want = stock(
        pipe, kind, samplers.make(sampler, schedule, config), image=some_latents(), strength=0.5, num_inference_steps=8
    )
    got = ours(pipe, samplers.make(sampler, schedule, config), some_latents(), Steps(8, 4))
    assert torch.isfinite(want).all(), (
        f"{sampler} {schedule}: the stock pipeline itself gives no numbers; choose other steps"
    )
    assert torch.equal(got.latents, want), (
        f"{sampler} {schedule}: off by up to {(got.latents - want).abs().max()}; compare sampling.sample with the "
        f"pipeline's __call__ line by line"
    )


@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_txt2img_is_the_stock_pipelines_bit_for_bit(
    family: tuple[Pipeline, Any, Any], sampler: str, schedule: str
) -> None:
    pipe, kind, _ = family
    config = pipe.scheduler.config
    size = {"width": SIZE.width, "height": SIZE.height}
    want = stock(pipe, kind, samplers.make(sampler, schedule, config), num_inference_steps=5, **size)
    got = ours(pipe, samplers.make(sampler, schedule, config), None, Steps(5, 0))
    assert torch.equal(got.latents, want), f"{sampler} {schedule}: off by up to {(got.latents - want).abs().max()}"


@pytest.mark.parametrize(("sampler", "schedule"), LISTED)
def test_align_your_steps_is_the_stock_pipelines_given_its_timesteps(
    family: tuple[Pipeline, Any, Any], sampler: str, schedule: str
) -> None:
    pipe, _, kind = family
    config = pipe.scheduler.config
    name = "sdxl" if kind is StableDiffusionXLImg2ImgPipeline else "sd1"
    plain = samplers.make(sampler, "Uniform", config)
    table = AysSchedules[align_your_steps.TABLES[name]]
    want = stock(pipe, kind, plain, image=some_latents(), strength=0.5, timesteps=table)
    got = ours(pipe, samplers.make(sampler, schedule, config, name), some_latents(), Steps(10, 5))
    assert torch.equal(got.latents, want), f"{sampler}: off by up to {(got.latents - want).abs().max()}"


def test_img2img_from_pixels_is_the_stock_pipelines_when_the_generator_is_shared(
    family: tuple[Pipeline, Any, Any],
) -> None:
    """The stock pipeline draws the VAE's posterior sample first and the noise second, from one generator."""
    pipe, _, kind = family
    pixels = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    config = pipe.scheduler.config
    want = stock(
        pipe, kind, samplers.make("Euler a", "Uniform", config), image=pixels, strength=0.5, num_inference_steps=8
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        latents = pipe.vae.encode(pixels * 2 - 1).latent_dist.sample(generator) * pipe.vae.config["scaling_factor"]
    noise = StockNoise(generator)
    got = ours(pipe, samplers.make("Euler a", "Uniform", config), latents, Steps(8, 4), noise=noise)
    assert torch.equal(got.latents, want), f"off by up to {(got.latents - want).abs().max()}"


def test_without_guidance_it_is_the_stock_pipelines_too(family: tuple[Pipeline, Any, Any]) -> None:
    pipe, _, kind = family
    made = kind(**{**pipe.components, "scheduler": samplers.make("Euler", "Uniform", pipe.scheduler.config)})
    made.set_progress_bar_config(disable=True)
    want = made(
        prompt=PROMPT,
        image=some_latents(),
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=1.0,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images
    scheduler = samplers.make("Euler", "Uniform", pipe.scheduler.config)
    assert torch.equal(ours(pipe, scheduler, some_latents(), Steps(8, 4), cfg=1.0).latents, want)


@pytest.mark.parametrize("mode", ["tile", "global", "crop"])
def test_one_tile_over_the_whole_canvas_changes_nothing(family: tuple[Pipeline, Any, Any], mode: Any) -> None:
    pipe, _, _ = family
    made = [
        ours(
            pipe, samplers.make("DPM++ 2M", "Karras", pipe.scheduler.config), some_latents(), Steps(8, 4), **options
        ).latents
        for options in ({}, {"denoiser": TiledDenoiser(TileGrid.whole(Size(8, 6))), "time_ids": mode})
    ]
    assert torch.equal(*made), "a single covering tile must be handed to the model untouched"


@pytest.mark.parametrize(("sampler", "schedule"), [("DPM++ 2M", "Karras"), ("Euler a", "Uniform")])
def test_the_batch_of_tiles_doesnt_change_the_picture(
    family: tuple[Pipeline, Any, Any], sampler: str, schedule: str
) -> None:
    pipe, _, _ = family
    latents = torch.randn((1, 4, 24, 40), generator=torch.Generator().manual_seed(1))
    grid = elastic_grid(Size(40, 24), tile_max=16, overlap=4, multiple=8)
    made = [
        ours(
            pipe,
            samplers.make(sampler, schedule, pipe.scheduler.config),
            latents,
            Steps(6, 3),
            denoiser=TiledDenoiser(grid, batch),
            size=Size(320, 192),
            noise=CanvasNoise(5, "hires"),
        ).latents
        for batch in (1, 4)
    ]
    assert (made[0] - made[1]).abs().max() < 1e-3, "tiles must be independent of what else is in their batch"


def test_time_ids_tell_the_tile_the_canvas_or_the_crop() -> None:
    pipe = tiny.sdxl()
    seen: list[torch.Tensor] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    grid = TileGrid(Size(24, 16), Size(16, 16), (0, 8), (0,))
    want = {
        "tile": [[128, 128, 0, 0, 128, 128], [128, 128, 0, 0, 128, 128]],
        "global": [[128, 192, 0, 0, 128, 192], [128, 192, 0, 0, 128, 192]],
        "crop": [[128, 192, 0, 0, 128, 128], [128, 192, 0, 64, 128, 128]],
    }
    for mode, rows in want.items():
        seen.clear()
        ours(
            pipe,
            samplers.make("Euler", "Uniform", pipe.scheduler.config),
            torch.zeros(1, 4, 16, 24),
            Steps(2, 1),
            denoiser=TiledDenoiser(grid, 2),
            size=Size(192, 128),
            time_ids=mode,
        )
        # Batch-major: both tiles of the unconditional entry, then both of the conditional one.
        assert seen[0].tolist() == rows * 2, f"{mode}: height, width, top, left, height, width in pixels, tile by tile"


class Counting(Silent):
    """Counts steps; may stop the work."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.steps, self._stop_after = 0, stop_after

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps >= self._stop_after:
            raise Interrupted("stopped")


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "DDIM", "UniPC", "LMS", "LCM"])
@pytest.mark.parametrize(("steps", "denoise"), [(20, 0.35), (7, 0.3), (1, 0.05), (3, 1.0)])
def test_exactly_the_steps_asked_for_are_run(sampler: str, steps: int, denoise: float) -> None:
    pipe, calls = tiny.sd15(), []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    progress = Counting()
    config = pipe.scheduler.config
    asked = exact_steps(steps, denoise)
    made = ours(pipe, samplers.make(sampler, "Automatic", config), some_latents(), asked, progress=progress)
    assert len(calls) == steps, f"{sampler}: {len(calls)} model calls for {steps} steps at denoise {denoise}"
    assert progress.steps == steps
    assert made.steps.run == steps


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("denoise", [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.99, 1.0])
def test_exact_steps_start_at_the_noise_level_asked_for(steps: int, denoise: float) -> None:
    found = exact_steps(steps, denoise)
    if steps / denoise <= 1000:
        assert found.run == steps, "no step may be lost to rounding"
    assert abs(found.run / found.total - denoise) <= 0.5 / found.total + 1e-9 or found.run == found.total == steps


def test_progress_can_stop_the_work() -> None:
    pipe = tiny.sd15()
    scheduler = samplers.make("Euler", "Uniform", pipe.scheduler.config)
    progress = Counting(stop_after=2)
    with pytest.raises(Interrupted):
        ours(pipe, scheduler, some_latents(), Steps(8, 0), progress=progress)
    assert progress.steps == 2, "the work must stop with the step that was refused"


def test_our_noise_is_the_same_in_every_run_and_for_every_tiling() -> None:
    pipe = tiny.sd15()
    made = []
    for _ in range(2):
        scheduler = samplers.make("Euler a", "Uniform", pipe.scheduler.config)
        made.append(ours(pipe, scheduler, some_latents(), Steps(6, 2), noise=CanvasNoise(3, "hires")).latents)
    assert torch.equal(*made)
    scheduler = samplers.make("Euler a", "Uniform", pipe.scheduler.config)
    other = ours(pipe, scheduler, some_latents(), Steps(6, 2), noise=CanvasNoise(4, "hires")).latents
    assert not torch.equal(made[0], other), "another seed must give another picture"


def test_a_box_of_cells_is_scaled_by_the_vaes_own_factor() -> None:
    model = tiny.parts(tiny.sd15())
    assert model.vae_factor == 8
    assert Box(0, 0, 8, 6).scale(model.vae_factor) == Box.of(SIZE)


def test_the_conditioning_may_change_from_step_to_step() -> None:
    pipe, heard, asked = tiny.sd15(), [], []
    model = tiny.parts(pipe)
    pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: heard.append(kwargs["encoder_hidden_states"][0]), with_kwargs=True
    )
    conditions = [prompts.encode(model, f"prompt {i}", guided=False) for i in range(3)]
    told: list[tuple[int, int, torch.Tensor]] = []

    def at(step: int) -> prompts.Conditioning:
        asked.append(step)
        return conditions[step]

    made = sampling.sample(
        model,
        at,
        some_latents(),
        scheduler=samplers.make("Heun", "Uniform", pipe.scheduler.config),
        steps=Steps(5, 2),
        cfg=1.0,
        noise=CanvasNoise(1, "hires"),
        size=SIZE,
        on_step=lambda done, total, x: told.append((done, total, x)),
    )
    assert asked[1:] == [0, 0, 1, 1, 2], "a second-order sampler calls the model twice a step, but for the last"
    assert all(torch.equal(got, conditions[step].embeds[0]) for got, step in zip(heard, asked[1:], strict=True))
    assert [(done, total) for done, total, _ in told] == [(number, 5) for number in range(1, 6)]
    assert torch.equal(told[-1][2], made.latents)


def test_a_canvas_of_several_tiles_stays_in_host_memory() -> None:
    cells = Size(32, 16)
    cut = TiledDenoiser(elastic_grid(cells, tile_max=16, overlap=4, multiple=8))
    assert sampling.canvas_home(cut, "cuda").type == "cpu"
    assert sampling.canvas_home(TiledDenoiser(TileGrid.whole(cells)), "cuda").type == "cuda"
    assert sampling.canvas_home(None, "cuda").type == "cuda"


def test_and_adds_up_the_guidance_of_every_prompt() -> None:
    """uncond + Σ w·cfg·(cond − uncond), against plain UNet calls."""
    pipe = tiny.sd15()
    model, cfg, x = tiny.parts(pipe), 4.0, some_latents()
    scheduler = samplers.make("Euler", "Uniform", pipe.scheduler.config)
    condition = prompts.encode(model, "a cat AND a dog :-0.5 AND red :2", NEGATIVE, guided=True)
    noise = StockNoise(torch.Generator().manual_seed(5))
    got = sampling.sample(model, condition, x, scheduler=scheduler, steps=Steps(2, 1), cfg=cfg, noise=noise, size=SIZE)
    scheduler = samplers.make("Euler", "Uniform", pipe.scheduler.config)
    scheduler.set_timesteps(2)
    t = scheduler.timesteps[1]
    drawn = StockNoise(torch.Generator().manual_seed(5)).start(CELLS)
    noisy = scheduler.add_noise(x, drawn, t[None])
    scheduler.set_begin_index(1)
    scaled = scheduler.scale_model_input(noisy, t)
    unet: Any = model.unet
    with torch.no_grad():
        texts = [NEGATIVE, "a cat", "a dog", "red"]
        answers = [
            unet(scaled, t, encoder_hidden_states=prompts.encode(model, text, guided=False).embeds).sample
            for text in texts
        ]
    base, *others = answers
    guided = base + sum(w * cfg * (one - base) for w, one in zip((1.0, -0.5, 2.0), others, strict=True))
    want = scheduler.step(guided, t, noisy, return_dict=False)[0]
    assert (got.latents - want).abs().max() < 1e-5


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "PLMS"])
def test_each_step_listens_to_its_own_prompt(sampler: str) -> None:
    """`[a:b:2]` in four steps: the last two are b's, whatever the sampler does within a step."""
    pipe = tiny.sd15()
    model = tiny.parts(pipe)
    seen: list[float] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(float(kwargs["encoder_hidden_states"][1].sum())), with_kwargs=True
    )
    made = prompts.course(model, "[cat:dog:2]", NEGATIVE, guided=True, count=Count(4))
    a, b = (float(made.at(step).embeds[1].sum()) for step in (0, 2))
    sampling.sample(
        model,
        made.at,
        some_latents(),
        scheduler=samplers.make(sampler, "Uniform", pipe.scheduler.config),
        steps=Steps(8, 4),
        cfg=4.0,
        noise=StockNoise(torch.Generator().manual_seed(5)),
        size=SIZE,
    )
    want = {"Euler": [a, a, b, b], "Heun": [a, a, a, a, b, b, b], "PLMS": [a, a, b, b, b]}
    assert seen == want[sampler]
