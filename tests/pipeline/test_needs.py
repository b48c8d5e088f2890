"""What real checkpoints demand, from their headers alone; budgets that every preset must be planned within."""

from __future__ import annotations

import json
import struct
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests import loras, tiny
from tests.batches import draw
from tilehires import memory
from tilehires.batch import needs
from tilehires.batch.discover import discover
from tilehires.batch.hashes import HashMemory
from tilehires.batch.job import decoder_of, prepare
from tilehires.batch.setup import Setup, set_up
from tilehires.config import Config
from tilehires.config.presets import shipped
from tilehires.config.settings import hires_pass
from tilehires.diffusion import checkpoints, loading, lora
from tilehires.diffusion.anatomy import anatomy
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.header import base_config
from tilehires.diffusion.lora import Lora
from tilehires.errors import ConfigError, ImageError, MissingError
from tilehires.memory import GIB
from tilehires.stages.swap import passes_of
from tilehires.tiling.live import LiveBytes
from tilehires.upscalers.loading import load
from tilehires.upscalers.need import need, parameters


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Checkpoints with the real models' headers; the numbers behind are holes in the file and take no disk."""
    folder = tmp_path_factory.mktemp("real")

    @cache
    def made(family: str) -> Checkpoint:
        return checkpoints.inspect(str(_hollow(folder / f"{family}.safetensors", family)))

    return made


def _hollow(path: Path, family: str) -> Path:
    config = partial(base_config, family)
    kinds: tuple[Any, Any] = (UNet2DConditionModel, AutoencoderKL)
    with torch.device("meta"):
        unet, vae = (kind.from_config(config(part)) for kind, part in zip(kinds, ("unet", "vae"), strict=True))
        encoders: list[nn.Module] = [CLIPTextModel(CLIPTextConfig(**config("text_encoder")))]
        if family == "sdxl":
            encoders.append(CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2"))))
    header, end = {}, 0
    for name, value in tiny.single_file_state(unet, vae, encoders).items():
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [end, end + 2 * value.numel()]}
        end += 2 * value.numel()
    body = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(body)) + body)
        file.truncate(8 + len(body) + end)
    return path


def planned(config: Config, checkpoint: Checkpoint, budget: str) -> memory.Plan:
    """The plan of any run with these settings on a card of that size."""
    config = config.for_family(checkpoint.family.name)
    model, limit = needs.Model(checkpoint, None, torch.float16), memory.parse_bytes(budget, what="memory.vram")
    parts = [needs.of_run(config.settings, values, model) for _, values in passes_of(config.settings)]
    return memory.plan_all(parts, budget=limit, accelerator=True)


@pytest.mark.parametrize(("family", "unet", "text"), [("sd1", 1.60, 0.23), ("sdxl", 4.78, 1.52)])
def test_weights_are_counted_from_the_header(real: Any, family: str, unet: float, text: float) -> None:
    checkpoint = real(family)
    settings = Config.load("default").settings
    parts = needs.of_run(settings, hires_pass(settings, 0), needs.Model(checkpoint, None, torch.float16))
    weights = {part.name: part.weights / GIB for part in parts}
    assert weights["UNet"] == pytest.approx(unet, abs=0.01)
    assert weights["text encoders"] == pytest.approx(text, abs=0.01)
    # The VAEs ask for float32 (force_upcast is diffusers' default too): then their weights are there in both formats.
    assert weights["VAE"] == pytest.approx(0.16 * 3, abs=0.02)


def test_a_refiner_takes_turns_with_the_other_model_or_stays_beside_it(real: Any) -> None:
    settings, checkpoint = Config.load("sdxl").settings, real("sdxl")
    values = hires_pass(settings, 0)
    plain = needs.of_run(settings, values, needs.Model(checkpoint, None, torch.float16))
    refined = needs.of_run(settings, values, needs.Model(checkpoint, None, torch.float16, (checkpoint,)))

    def peak(parts: list[memory.Part], offload: memory.Offload) -> float:
        return max(one.bytes for one in memory.peaks(parts, 1, offload, accelerator=True)) / GIB

    for offload in ("staged", "streamed"):
        assert peak(refined, offload) == peak(plain, offload), "the same model twice, one at a time"
    assert peak(refined, "resident") - peak(plain, "resident") == pytest.approx(4.78 + 1.52, abs=0.01)


@pytest.mark.parametrize("naming", ["kohya", "diffusers", "ldm"])
def test_loras_are_counted_as_they_lie_on_the_model(tmp_path: Path, naming: Any) -> None:
    pipe = tiny.sdxl()
    bay, checkpoint = Bay(), checkpoints.inspect(str(tiny.write_single_file(pipe, tmp_path / "model.safetensors")))
    rank = 3 if naming == "diffusers" else 2  # what it reads as a file without alphas
    file = loras.write(pipe, tmp_path / "style.safetensors", naming, loras.halves(pipe, rank=rank, alpha=rank))
    style = Lora("style", file, 0.5, 0.5)
    model = bay.diffusion(checkpoint, None, (style,))

    def added(*modules: nn.Module) -> int:
        named = [pair for module in modules for pair in module.named_parameters()]
        return sum(value.numel() for name, value in named if ".lora_A." in name or ".lora_B." in name)

    text, unet = needs.lora_numbers([(), (style, style)])
    assert (text, unet) == (added(*model.text_encoders), added(model.unet)) and min(text, unet) > 0
    settings = Config.load("sdxl").settings
    given = [
        {part.name: part.weights for part in needs.of_run(settings, hires_pass(settings, 0), one)}
        for one in (
            needs.Model(checkpoint, None, torch.float16),
            needs.Model(checkpoint, None, torch.float16, (), (text, unet)),
        )
    ]
    assert given[1]["UNet"] - given[0]["UNet"] == 2 * unet
    assert given[1]["text encoders"] - given[0]["text encoders"] == 2 * text
    assert given[1]["VAE"] == given[0]["VAE"]


def test_the_loras_of_flags_and_of_each_image_are_in_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.sd15()
    checkpoint = tiny.write_single_file(pipe, tmp_path / "model.safetensors")
    for name, rank in (("small", 2), ("large", 40)):
        loras.write(pipe, tmp_path / f"{name}.safetensors", "kohya", loras.halves(pipe, rank=rank))
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "b.txt").write_text("a cat <lora:large:1>")
    values = {"model": {"checkpoint": str(checkpoint), "lora_folder": str(tmp_path)}, "run": {"device": "cpu"}}
    config = Config.load().with_layer(values, "test")

    def weights(plan: memory.Plan) -> int:
        return next(peak.weights for peak in plan.peaks if peak.part == "UNet")

    bare = set_up(config)
    setup = set_up(config.with_layer({"hires": {"loras": ["small:0.5"]}}, "test"))
    small, large = (sum(lora.parameters(tmp_path / f"{name}.safetensors")) for name in ("small", "large"))
    assert weights(setup.plan) - weights(bare.plan) == 4 * small
    plans = []
    with decoder_of(config) as decoder:
        for found in discover(tmp_path / "in", tmp_path / "out", suffix=".png", follow_links=False).found:
            plans.append(setup.plan_for(prepare(found, setup.config, setup.checkpoint, HashMemory(None), decoder)))
    assert weights(plans[1]) - weights(plans[0]) == 4 * large
    alone = config.with_layer({"hires": {"denoise": 0, "upscaler": "Lanczos"}, "tiled": {"denoise": 0}}, "test")
    detail = [
        set_up(alone.with_layer({"detail": {"passes": [{"detector": "face", "prompt": prompt}]}}, "test"))
        for prompt in ("a face", "a face <lora:large:1>")
    ]
    assert weights(detail[1].plan) - weights(detail[0].plan) == 4 * large, "a region's LoRAs too"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("preset", shipped())
def test_every_preset_plans_on_a_card_of_8_gb(real: Any, family: str, preset: str) -> None:
    plan = planned(Config.load(preset), real(family), "8GB")
    assert plan.peak <= 8 * GIB and plan.tile_batch >= 1
    assert plan.offload != "streamed", "the model must not be streamed on so large a card"


@pytest.mark.parametrize("preset", ["sd15", "photo", "anime", "default"])
def test_sd15_plans_on_a_card_of_4_gb(real: Any, preset: str) -> None:
    plan = planned(Config.load(preset).with_layer({"memory": {"vae_whole_max": 768}}, "test"), real("sd1"), "4GB")
    assert plan.peak <= 4 * GIB


def test_sdxl_on_a_card_of_4_gb_is_streamed(real: Any) -> None:
    config = Config.load("overnight-8gb").with_layer({"memory": {"vae": "tiled"}}, "test")
    plan = planned(config, real("sdxl"), "4GB")
    assert plan.offload == "streamed" and plan.peak <= 4 * GIB


def test_what_no_plan_fits_is_refused_with_a_setting_that_helps(real: Any) -> None:
    with pytest.raises(ConfigError) as error:
        planned(Config.load("sdxl").with_layer({"memory": {"vae_whole_max": 4096}}, "test"), real("sdxl"), "8GB")
    assert "--set memory.vae_whole_max=" in error.value.hint


def test_an_image_that_does_not_fit_is_refused_before_it_is_worked_on(real: Any, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((2048, 2048, 3), np.uint8)).save(source / "large.png")
    config = Config.load("sdxl").with_layer({"memory": {"vae": "whole"}, "hires": {"upscaler": "Lanczos"}}, "test")
    config = config.for_family("sdxl")
    checkpoint = real("sdxl")
    setup = Setup(config, checkpoint, torch.device("cuda"), torch.float16, planned(config, checkpoint, "16GB"))
    [found] = discover(source, tmp_path / "out", suffix=".png", follow_links=False).found
    with decoder_of(config) as decoder:
        job = prepare(found, config, checkpoint, HashMemory(None), decoder)
    with pytest.raises(ImageError, match="4096x4096 in one piece") as error:
        setup.plan_for(job)
    assert "memory.vae_whole_max" in error.value.hint


@pytest.mark.parametrize("name", ["upscale_2x", "upscale_4x"])
def test_an_upscalers_need_is_what_it_takes(name: str) -> None:
    path = checkpoints.BUILTIN_FOLDER.parent / f"{name}.safetensors"
    model = load(path)
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad(), LiveBytes() as counter:
        model(image)
    found = need(path, torch.float32)
    pictures = 4 * 3 * (1 + model.scale**2)
    assert found.per_pixel == pytest.approx(counter.peak / 96**2 + pictures, rel=0.01)
    assert found.weights == sum(value.numel() for value in model.model.state_dict().values()) * 4
    assert need(path, torch.float16).weights == found.weights // 2


def test_an_upscaler_saved_by_its_trainer_needs_as_much(tmp_path: Path) -> None:
    """Real-ESRGAN's files hold the weights under "params_ema", some of them twice."""
    own = checkpoints.BUILTIN_FOLDER.parent / "upscale_2x.safetensors"
    state = load_file(own)
    for name, saved in (("once", {"params_ema": state}), ("twice", {"params": state, "params_ema": state})):
        torch.save(saved, tmp_path / f"{name}.pth")
        assert need(tmp_path / f"{name}.pth", torch.float32) == need(own, torch.float32)
        assert parameters(tmp_path / f"{name}.pth") == parameters(own)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_a_damaged_upscaler_is_refused_by_the_planner_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x10garbage" * 100)
    with pytest.raises(MissingError) as error:
        need(tmp_path / name, torch.float32)
    assert error.value.hint


def test_another_models_file_is_no_vae(tmp_path: Path) -> None:
    save_file({"encoder.layers.0.weight": torch.zeros(4, 4, 3, 3)}, tmp_path / "taesd.safetensors")
    with pytest.raises(MissingError, match="not a VAE"):
        anatomy(checkpoints.inspect("builtin"), str(tmp_path / "taesd.safetensors"))


def test_the_builtin_vaes_values_per_pixel_cover_what_it_takes() -> None:
    checkpoint = checkpoints.inspect("builtin")
    vae = loading.load(checkpoint, torch.float32, None).vae
    counted = []
    for call, given in ((vae.encode, torch.rand(1, 3, 128, 128)), (vae.decode, torch.rand(1, 8, 64, 64))):
        with torch.no_grad(), LiveBytes() as counter:
            call(given)
        counted.append(counter.peak / 4 / 128**2)
    bound = anatomy(checkpoint, None).vae.values_per_pixel
    assert 0.9 * bound <= max(counted) <= bound
