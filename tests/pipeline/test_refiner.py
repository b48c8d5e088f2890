"""SDXL's refiner: as a model of its own, and as the second UNet of a pass, against diffusers' own pipelines."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.batches import Workplace, draw, outputs, workplace
from tests.faults.test_resume import in_a_fork
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.noise import StockNoise
from tilehires.diffusion.predictor import Predictor
from tilehires.diffusion.resume import State, StepFile
from tilehires.diffusion.sampling import Steps, Switch
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


@pytest.fixture(scope="module")
def base() -> Any:
    made = tiny.sdxl(4)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("at", [0.8, 0.55])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_the_switch_is_diffusers_ensemble_of_base_and_refiner_bit_for_bit(
    base: Any, refiner: Any, sampler: str, at: float
) -> None:
    """diffusers starts the refiner with a fresh scheduler, so the samplers compared are those without a history."""
    config = tiny.sdxl_scheduler().config
    common: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 10}
    common |= {"guidance_scale": 7.0, "output_type": "latent"}
    base.scheduler, refiner.scheduler = (samplers.make(sampler, "Uniform", config) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    begun = base(width=SIZE.width, height=SIZE.height, denoising_end=at, generator=generator, **common).images
    want = refiner(image=begun, denoising_start=at, **common).images
    first, second = tiny.parts(base), tiny.parts(refiner)
    heard = prompts.encode(second, PROMPT, NEGATIVE, guided=True)
    switch = Switch(second, lambda step: heard, at)
    got = sampling.sample(
        first,
        prompts.encode(first, PROMPT, NEGATIVE, guided=True),
        None,
        scheduler=samplers.make(sampler, "Uniform", config),
        steps=Steps(10, 0),
        cfg=7.0,
        noise=StockNoise(torch.Generator().manual_seed(5)),
        size=SIZE,
        switch=switch,
    )
    assert torch.isfinite(want).all()
    assert torch.equal(got.latents, want), f"off by up to {(got.latents - want).abs().max()}"


@pytest.mark.parametrize(
    ("order", "timesteps", "first"),
    [
        (1, [900, 600, 300, 199, 100], 3),
        (1, [900, 600, 300, 200], 4),
        (1, [150, 50], 0),
        (2, [900, 300, 300, 150, 150, 60, 60], 4),
    ],
)
def test_the_switch_lies_between_whole_steps(order: int, timesteps: list[int], first: int, base: Any) -> None:
    switch = Switch(tiny.parts(base), lambda step: None, 0.8)  # pyright: ignore[reportArgumentType]
    assert switch.first(torch.tensor(timesteps), 1000, order) == first


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {"xl": tiny.sdxl(4), "refiner": tiny.refiner(3), "sd": tiny.sd15()}
    made["xl"].vae.save_pretrained(folder / "vae")
    files = {name: tiny.write_single_file(pipe, folder / f"{name}.safetensors") for name, pipe in made.items()}
    return files | {"vae": folder / "vae"}


@pytest.fixture
def work(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    draw(made.input / "a.png")
    return made


QUICK = ("--steps", "4", "--denoise", "0.5", "--seed", "1", "--set", "hires.upscaler=Lanczos")
# From 0.5 of the noise down in four steps: at 0.7 the refiner takes over after the second.
EVENLY = ("--set", "generate.sampler=DPM++ 2M", "--set", "generate.scheduler=Uniform", "--set", "hires.switch_at=0.7")


def test_from_the_first_step_on_it_is_the_passs_own_model(work: Workplace, models: dict[str, Path]) -> None:
    def pixels(name: str, *settings: str) -> np.ndarray:
        words = [word for setting in settings for word in ("--set", setting)]
        ended = work.run(*QUICK, "--checkpoint", models["xl"], *words, output=work.root / name)
        assert ended.code == 0, ended.err
        with Image.open(work.root / name / "a.png") as image:
            return np.asarray(image.convert("RGB"))

    own = pixels("own", f"hires.checkpoint={models['refiner']}", f"hires.vae={models['vae']}")
    assert (pixels("all", f"hires.refiner={models['refiner']}", "hires.switch_at=0") == own).all()


def test_killed_after_the_switch_it_goes_on_with_the_refiner(
    work: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*QUICK, *EVENLY, "--checkpoint", models["xl"], "--set", f"hires.refiner={models['refiner']}")
    words = (*words, "--set", "run.step_checkpoint=0")
    scored: list[bool] = []
    real = Predictor.__call__

    def noted(self: Predictor, *arguments: Any) -> Any:
        scored.append(self.model.scored)
        return real(self, *arguments)

    monkeypatch.setattr(Predictor, "__call__", noted)

    def die() -> None:
        reached = StepFile.reached

        def until_the_third(self: StepFile, sampling: str, state: State) -> None:
            reached(self, sampling, state)
            if state.done == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StepFile, "reached", until_the_third)
            work.run(*words)

    assert in_a_fork(die) == -signal.SIGKILL
    assert work.run(*words).code == 0
    assert scored == [True], "three of four model calls were done before the kill"
    scored.clear()
    assert work.run(*words, output=work.root / "whole").code == 0
    assert scored == [False, False, True, True]
    assert outputs(work.output) == outputs(work.root / "whole")


def test_a_first_pass_switches_too_and_hires_inherits_its_refiner(
    work: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[bool] = []
    real = Predictor.__call__

    def noted(self: Predictor, *arguments: Any) -> Any:
        scored.append(self.model.scored)
        return real(self, *arguments)

    monkeypatch.setattr(Predictor, "__call__", noted)
    small = ("--set", "generate.width=32", "--set", "generate.height=32", "--set", "generate.steps=4")
    words = ("--checkpoint", models["xl"], "--set", f"generate.refiner={models['refiner']}", *QUICK, *EVENLY, *small)
    ended = work.command("generate", "a fox", "-o", work.output, *words, "--set", "generate.switch_at=0.5")
    assert ended.code == 0, ended.err
    assert scored == [False, False, True, True] * 2
    [image] = work.report()["images"]
    first = next(stage["facts"] for stage in image["stages"] if stage["name"] == "generate")
    assert (first["refiner"], first["switch_at"]) == ("refiner.safetensors", 0.5)


def test_the_preset_doubles_a_first_pass_and_refines_it_with_the_same_seed(
    work: Workplace, models: dict[str, Path]
) -> None:
    small = ("--set", "generate.width=32", "--set", "generate.height=32", "--set", "generate.steps=2", "--steps", "2")
    models_ = ("--checkpoint", models["xl"], "--set", f"hires.checkpoint={models['refiner']}")
    ended = work.command("generate", "a fox", "-o", work.output, "-c", "sdxl-refiner", *models_, *small, "--seed", "5")
    assert ended.code == 0, ended.err
    [image] = work.report()["images"]
    assert image["output"]["size"] == [64, 64] and image["seed"] == 5
    [first, second] = [stage["facts"] for stage in image["stages"] if stage["name"] in ("generate", "hires")]
    assert (first["size"], second["upscaler"], second["steps_run"]) == ([32, 32], "Lanczos", 2)
    assert not [note for note in image["notes"] if "repaints" in note], "the refiner is made for this"


@pytest.mark.parametrize(("checkpoint", "refiner", "code"), [("xl", "sd", 2), ("sd", "refiner", 2), ("xl", "gone", 5)])
def test_a_refiner_that_does_not_fit_ends_the_run_before_any_work(
    work: Workplace, models: dict[str, Path], checkpoint: str, refiner: str, code: int
) -> None:
    named = models.get(refiner, Path("gone.safetensors"))
    ended = work.run(*QUICK, "--checkpoint", models[checkpoint], "--set", f"tiled.refiner={named}")
    assert ended.code == code
    assert models[checkpoint].name in ended.err or named.name in ended.err
    assert not list(work.root.glob("output/**/a.png"))
