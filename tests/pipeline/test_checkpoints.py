"""Checkpoints of all three layouts, loaded offline: what comes out is what went in, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests import tiny
from tilehires.diffusion import checkpoints, loading, prompts, samplers, sampling
from tilehires.diffusion.anatomy import anatomy
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.header import CONFIGS, Header, base_config
from tilehires.diffusion.noise import StockNoise
from tilehires.diffusion.sampling import Steps
from tilehires.diffusion.vocabulary import clip_tokenizer
from tilehires.errors import MissingError
from tilehires.geometry import Size
from tilehires.stages.redenoise import vae_files

BUILDERS: dict[str, Callable[..., Any]] = {
    "sd1": tiny.sd15,
    "sd2": tiny.sd2,
    "sdxl": tiny.sdxl,
    "sdxl-refiner": tiny.refiner,
}
FAMILIES = pytest.mark.parametrize("family", BUILDERS)


def load(reference: str | Path, vae: str | None = None, dtype: torch.dtype = torch.float32) -> Diffusion:
    return Bay(dtype=dtype).diffusion(checkpoints.inspect(str(reference)), vae)


def assert_same(got: nn.Module, want: nn.Module) -> None:
    ours, theirs = got.state_dict(), want.state_dict()
    assert ours.keys() == theirs.keys()
    wrong = [name for name, value in theirs.items() if not torch.equal(ours[name], value)]
    assert not wrong, f"{type(got).__name__}: {len(wrong)} tensors differ, such as {wrong[0]}"
    assert not any(value.is_meta for value in ours.values()), "a tensor was never filled in"
    assert not got.training


def assert_same_model(got: Diffusion, pipe: Any) -> None:
    assert_same(got.unet, pipe.unet)
    assert_same(got.vae, pipe.vae)
    for ours, theirs in zip(got.text_encoders, tiny.text_encoders(pipe), strict=True):
        assert_same(ours, theirs)


def picture(model: Diffusion) -> torch.Tensor:
    """Latents of three steps: whatever the configs say takes part in it."""
    condition = prompts.encode(model, "a photo of a cat", "", guided=True)
    scheduler = samplers.make("DDIM", "Uniform", model.scheduler_config)
    noise = StockNoise(torch.Generator().manual_seed(0))
    made = sampling.sample(
        model, condition, None, scheduler=scheduler, steps=Steps(3, 0), cfg=5, noise=noise, size=Size(64, 64)
    )
    return made.latents


def test_clips_vocabulary_is_the_real_one() -> None:
    tokens = clip_tokenizer()("a photo of a cat").input_ids
    assert tokens == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert clip_tokenizer(pad="!")("a", padding="max_length").input_ids[3:] == [0] * 74


@FAMILIES
def test_single_files_give_back_what_was_saved(tmp_path: Path, family: str) -> None:
    pipe = BUILDERS[family]()
    file = tiny.write_single_file(pipe, tmp_path / "model.safetensors")
    found = checkpoints.inspect(str(file))
    assert (found.family.name, found.layout, found.vae_factor) == (family, "single-file", 8)
    assert found.prediction == pipe.scheduler.config.prediction_type
    model = load(file)
    assert_same_model(model, pipe)
    assert torch.equal(picture(model), picture(tiny.parts(pipe))), "the weights are right, but a config is not"


@FAMILIES
def test_folders_give_back_what_was_saved(tmp_path: Path, family: str) -> None:
    pipe = BUILDERS[family]()
    folder = tiny.write_folder(pipe, tmp_path / "model")
    found = checkpoints.inspect(str(folder))
    assert (found.family.name, found.layout, found.vae_factor) == (family, "diffusers", 8)
    assert found.prediction == pipe.scheduler.config.prediction_type
    assert set(found.files) == set(folder.rglob("*.safetensors")), "every weight file goes into the fingerprints"
    assert set(found.configs) == set(folder.rglob("*.json")), "a scheduler's config changes the picture as weights do"
    model = load(folder)
    assert_same_model(model, pipe)
    for value in (value for module in model.modules() for value in module.parameters()):
        value.data = value.data.clone()  # on a file's own alignment some kernels round otherwise
    assert torch.equal(picture(model), picture(tiny.parts(pipe)))


@FAMILIES
def test_a_folder_that_holds_half_precision_only_is_loaded(tmp_path: Path, family: str) -> None:
    pipe = BUILDERS[family]()
    pipe.save_pretrained(tmp_path, variant="fp16")
    found = checkpoints.inspect(str(tmp_path))
    assert all(".fp16" in file.name for file in found.files)
    assert_same_model(load(tmp_path), pipe)


def test_the_plain_weights_are_preferred_to_variants(tmp_path: Path) -> None:
    pipe = tiny.sd15()
    tiny.write_folder(pipe, tmp_path)
    plain = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    shutil.copy(plain, plain.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert plain in checkpoints.inspect(str(tmp_path)).files
    assert len(checkpoints.inspect(str(tmp_path)).files) == 3


def test_v_prediction_reaches_the_scheduler(tmp_path: Path) -> None:
    file = tiny.write_single_file(tiny.sdxl(), tmp_path / "model.safetensors", marks=("v_pred", "ztsnr"))
    model = load(file)
    assert model.scheduler_config["prediction_type"] == "v_prediction"
    scheduler = samplers.make("Euler", "Automatic", model.scheduler_config)
    assert scheduler.config["prediction_type"] == "v_prediction"
    assert scheduler.config["rescale_betas_zero_snr"]
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999, "zero terminal SNR needs the very last timestep"
    asked = Bay().diffusion(checkpoints.inspect(str(file), prediction="epsilon"))
    assert asked.scheduler_config["prediction_type"] == "epsilon", "model.prediction overrides the file"


def test_the_users_word_on_prediction_outlives_a_change_of_sampler(tmp_path: Path) -> None:
    """diffusers drops keys that a config notes as defaults when another scheduler is made of it."""
    folder = tiny.write_folder(tiny.sd15(), tmp_path)
    model = Bay().diffusion(checkpoints.inspect(str(folder), prediction="v_prediction"))
    for sampler in samplers.names():
        scheduler = samplers.make(sampler, "Automatic", model.scheduler_config)
        assert scheduler.config["prediction_type"] == "v_prediction", sampler


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_a_folder_with_a_tensor_lost_is_an_error_with_a_hint(tmp_path: Path, part: str) -> None:
    file = tiny.write_folder(tiny.sd15(), tmp_path) / f"{part}.safetensors"
    state = load_file(file)
    state.pop(next(name for name, value in state.items() if value.ndim == 2))
    save_file(state, file, {"format": "pt"})
    with pytest.raises(MissingError) as caught:
        load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(("part", "word"), [("vae", "VAE"), ("text", "text encoder")])
@FAMILIES
def test_a_missing_part_is_said_before_anything_is_loaded(tmp_path: Path, family: str, part: str, word: str) -> None:
    file = tiny.write_single_file(BUILDERS[family](), tmp_path / "model.safetensors", without=(part,))
    with pytest.raises(MissingError) as caught:
        checkpoints.inspect(str(file))
    assert word in caught.value.message
    assert caught.value.hint


def test_a_vae_named_by_the_user_makes_up_for_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.sd15()
    file = tiny.write_single_file(pipe, tmp_path / "model.safetensors", without=("vae",))
    pipe.vae.save_pretrained(tmp_path / "vae")
    monkeypatch.setenv("HOME", str(tmp_path))
    vae = "~/vae"
    found = checkpoints.inspect(str(file), vae=vae)
    assert found.vae_factor == 8 and anatomy(found, vae).vae.parameters == sum(p.numel() for p in pipe.vae.parameters())
    assert [one.parent for one in vae_files(vae)] == [tmp_path / "vae"]
    assert_same_model(Bay().diffusion(found, vae), pipe)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    tiny.write_folder(tiny.sd15(), tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(MissingError, match="only pickles") as caught:
        checkpoints.inspect(str(tmp_path))
    assert ".safetensors" in caught.value.hint


@FAMILIES
def test_a_checkpoint_with_a_tensor_lost_is_an_error_with_a_hint(tmp_path: Path, family: str) -> None:
    file = tiny.write_single_file(BUILDERS[family](), tmp_path / "model.safetensors")
    state = load_file(file)
    for name in [
        "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "first_stage_model.decoder.mid.block_1.conv1.weight",
        next(
            name for name in state if name.endswith(("encoder.layers.1.mlp.fc1.weight", "resblocks.1.mlp.c_fc.weight"))
        ),
    ]:
        damaged = tmp_path / "damaged.safetensors"
        save_file({key: value for key, value in state.items() if key != name}, damaged)
        with pytest.raises(MissingError) as caught:
            load(damaged)
        assert caught.value.hint, f"without {name}"


def test_a_hub_model_is_found_in_the_local_cache_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--somebody--tiny-model"
    pipe = tiny.sd15()
    tiny.write_folder(pipe, home / "snapshots" / "abc123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    found = checkpoints.inspect("somebody/tiny-model")
    assert found.layout == "diffusers"
    assert found.reference == "somebody/tiny-model"
    assert_same_model(load("somebody/tiny-model"), pipe)
    with pytest.raises(MissingError, match="not on this machine"):
        checkpoints.inspect("somebody/another-model")


def test_another_vae_takes_the_place_of_the_checkpoints_own(tmp_path: Path) -> None:
    file = tiny.write_single_file(tiny.sd15(), tmp_path / "model.safetensors")
    other = tiny.sd15(seed=1).vae
    folder = tmp_path / "vae"
    other.save_pretrained(folder)
    assert_same(load(file, str(folder)).vae, other)
    original = {name: value for name, value in load_file(file).items() if name.startswith("first_stage_model.")}
    for prefix in ("first_stage_model.", ""):  # both ways in which VAEs are distributed
        alone = tmp_path / "vae.safetensors"
        save_file({prefix + name.removeprefix("first_stage_model."): value for name, value in original.items()}, alone)
        assert_same(load(file, str(alone)).vae, tiny.sd15().vae)
    small = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    small.save_pretrained(tmp_path / "taesd")
    assert_same(load(file, str(tmp_path / "taesd")).vae, small.eval())


@pytest.mark.parametrize("kind", ["missing", "checkpoint", "folder", "pickle"])
def test_a_vae_that_is_none_is_an_error_with_a_hint(tmp_path: Path, kind: str) -> None:
    file = tiny.write_single_file(tiny.sd15(), tmp_path / "model.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "vae.pt").write_bytes(b"\x80\x04.")
    vae = {"missing": "nothing.safetensors", "checkpoint": str(file), "folder": str(tmp_path / "folder")}
    with pytest.raises(MissingError) as caught:
        load(file, vae.get(kind, str(tmp_path / "vae.pt")))
    assert caught.value.hint


def test_models_are_loaded_in_the_number_format_asked_for(tmp_path: Path) -> None:
    file = tiny.write_single_file(tiny.sdxl(), tmp_path / "model.safetensors")
    model = load(file, dtype=torch.bfloat16)
    assert {value.dtype for module in model.modules() for value in module.parameters()} == {torch.bfloat16}


def test_the_bay_loads_a_model_once_and_lets_go_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tiny.write_single_file(tiny.sd15(seed), tmp_path / f"{seed}.safetensors") for seed in (0, 1)]
    found = [checkpoints.inspect(str(file)) for file in files]
    bay = Bay()
    model = bay.diffusion(found[0])
    assert bay.diffusion(checkpoints.inspect(str(files[0]))) is model
    assert bay.diffusion(found[1]) is not model
    with bay.on_device(model.unet, model.vae):
        assert next(model.unet.parameters()).device.type == "cpu"
    bay.free()
    with monkeypatch.context() as patch, pytest.raises(LookupError):
        patch.setattr(loading, "load", _refuse)
        bay.diffusion(found[1])


def _refuse(*_: object) -> None:
    raise LookupError("loaded again")


def test_the_builtin_model_loads_and_says_what_it_is() -> None:
    found = checkpoints.inspect("builtin")
    assert found.layout == "builtin"
    model = load("builtin")
    assert found.vae_factor == model.vae_factor
    latents = model.unet.config["in_channels"]
    assert latents == model.vae.config["latent_channels"]
    assert model.unet.config["sample_size"] * found.vae_factor == found.family.native
    assert found.unet_parameters == sum(value.numel() for value in model.unet.parameters())
    assert picture(model).shape == (1, latents, 64 // found.vae_factor, 64 // found.vae_factor)


@FAMILIES
def test_a_real_checkpoints_header_gives_exactly_the_real_configs(family: str) -> None:
    """The packaged configs are the original models'; their shapes must lead back to them, so real files load alike."""
    with torch.device("meta"):
        unet = _made(UNet2DConditionModel, family, "unet")
        vae = _made(AutoencoderKL, family, "vae")
        encoders: list[nn.Module] = [
            kind(CLIPTextConfig(**base_config(family, part)))
            for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
            if (CONFIGS / family / part).is_dir()
        ]
    state = tiny.single_file_state(unet, vae, encoders)
    header = Header({name: tuple(value.shape) for name, value in state.items()}, {})
    assert header.kind == family
    found = loading.configs(header, family)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if not (CONFIGS / family / part).is_dir():
            assert f"{part}/config.json" not in found
            continue
        got, want = found[f"{part}/config.json"], base_config(family, part)
        different = {
            key: (got.get(key), want.get(key)) for key in got.keys() | want.keys() if got.get(key) != want.get(key)
        }
        assert not different, f"{part}: derived, packaged: {different}"


@pytest.mark.parametrize(
    ("family", "billions"),
    [("sd1", (0.8595, 0.0837, 0.1231)), ("sd2", (0.8659, 0.0837, 0.3404)), ("sdxl", (2.5675, 0.0837, 0.1231))],
)
def test_the_packaged_configs_are_the_real_models(family: str, billions: tuple[float, float, float]) -> None:
    """Parameter counts of UNet, VAE and first text encoder, as published with the models."""
    with torch.device("meta"):
        counts = [
            sum(value.numel() for value in module.parameters())
            for module in (
                _made(UNet2DConditionModel, family, "unet"),
                _made(AutoencoderKL, family, "vae"),
                CLIPTextModel(CLIPTextConfig(**base_config(family, "text_encoder"))),
            )
        ]
    assert [round(count / 1e9, 4) for count in counts] == list(billions)


def test_the_packaged_refiner_is_the_real_one() -> None:
    """2.26 billion parameters in its UNet, 0.69 in its text encoder (OpenCLIP's bigG)."""
    with torch.device("meta"):
        encoder = CLIPTextModelWithProjection(CLIPTextConfig(**base_config("sdxl-refiner", "text_encoder_2")))
        parts = (_made(UNet2DConditionModel, "sdxl-refiner", "unet"), encoder)
    assert [round(sum(v.numel() for v in part.parameters()) / 1e9, 2) for part in parts] == [2.26, 0.69]


def _made(kind: Any, family: str, part: str) -> nn.Module:
    return kind.from_config(base_config(family, part))
