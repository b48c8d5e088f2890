"""What a file is, from its header alone; and errors that say what to do. No model is loaded here."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tilehires.diffusion import checkpoints
from tilehires.diffusion.family import BUILTIN, FAMILIES, SD1, SDXL
from tilehires.diffusion.header import read_header
from tilehires.errors import ExitCode, MissingError

UNET = "model.diffusion_model."
SD1_NAMES = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "first_stage_model.encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3),
    "first_stage_model.encoder.down.1.block.0.conv1.weight": (8, 8, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (9, 4),
}
SD2_TEXT = {"cond_stage_model.model.token_embedding.weight": (9, 4)}
SDXL_TEXT = {
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (9, 4),
    "conditioner.embedders.1.model.token_embedding.weight": (9, 4),
}
REFINER_TEXT = {"conditioner.embedders.0.model.token_embedding.weight": (9, 4)}


def without(names: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in names.items() if not name.startswith(prefix)}


BODY = without(SD1_NAMES, "cond_stage_model.")


def write(
    path: Path, names: Mapping[str, tuple[int, ...]], metadata: dict[str, str] | None = None, **more: int
) -> Path:
    tensors = {name: np.zeros(shape, np.float16) for name, shape in names.items()}
    save_file(tensors | {name: np.array(value) for name, value in more.items()}, path, metadata)
    return path


def refusal(reference: str | Path) -> MissingError:
    """The error that inspecting gives; it must say what to do, and end the command with 5."""
    with pytest.raises(MissingError) as caught:
        checkpoints.inspect(str(reference))
    assert caught.value.hint, f"the error for {reference} must say what to do: {caught.value.message}"
    assert caught.value.exit_code == ExitCode.MISSING
    return caught.value


@pytest.mark.parametrize(
    ("names", "family"),
    [(SD1_NAMES, "sd1"), (BODY | SD2_TEXT, "sd2"), (BODY | SDXL_TEXT, "sdxl"), (BODY | REFINER_TEXT, "sdxl-refiner")],
    ids=["sd1", "sd2", "sdxl", "sdxl-refiner"],
)
def test_the_family_is_read_from_the_header(tmp_path: Path, names: dict[str, tuple[int, ...]], family: str) -> None:
    file = write(tmp_path / "model.safetensors", names)
    found = checkpoints.inspect(str(file))
    assert found.family is FAMILIES[family]
    assert found.layout == "single-file"
    assert found.files == (file,), "the file's hash goes into every fingerprint"
    assert found.vae_factor == 2, "two levels halve the size once: nothing assumes 8"
    assert found.unet_parameters == 8 * 4 * 9


@pytest.mark.parametrize(
    ("names", "metadata", "more", "want"),
    [
        (SD1_NAMES, {}, {}, "epsilon"),
        (SD1_NAMES | {"v_pred": (0,)}, {}, {}, "v_prediction"),
        (BODY | SDXL_TEXT | {"v_pred": (0,), "ztsnr": (0,)}, {}, {}, "v_prediction"),
        (BODY | SDXL_TEXT, {"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        (BODY | SDXL_TEXT, {"modelspec.prediction_type": "epsilon"}, {}, "epsilon"),
        (BODY | SD2_TEXT, {}, {}, "v_prediction"),
        (BODY | SD2_TEXT, {}, {"global_step": 875_000}, "epsilon"),
        (BODY | SD2_TEXT, {}, {"global_step": 140_000}, "v_prediction"),
    ],
)
def test_v_prediction_is_recognised(
    tmp_path: Path, names: dict[str, tuple[int, ...]], metadata: dict[str, str], more: dict[str, int], want: str
) -> None:
    file = str(write(tmp_path / "model.safetensors", names, metadata, **more))
    assert checkpoints.inspect(file).prediction == want
    for asked in ("epsilon", "v_prediction"):
        assert checkpoints.inspect(file, prediction=asked).prediction == asked, "model.prediction overrides the file"


def test_zero_terminal_snr_is_recognised(tmp_path: Path) -> None:
    marked = write(tmp_path / "marked.safetensors", SD1_NAMES | {"ztsnr": (0,)})
    assert checkpoints.inspect(str(marked)).zero_terminal_snr
    assert not checkpoints.inspect(str(write(tmp_path / "plain.safetensors", SD1_NAMES))).zero_terminal_snr


def test_a_missing_vae_is_said_with_what_to_do(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "model.safetensors", without(SD1_NAMES, "first_stage_model.")))
    assert "VAE" in error.message
    assert "VAE" in error.hint


def test_a_missing_text_encoder_is_said(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "model.safetensors", BODY))
    assert "text encoder" in error.message
    assert "full checkpoint" in error.hint


def test_an_inpainting_model_is_refused(tmp_path: Path) -> None:
    names = SD1_NAMES | {UNET + "input_blocks.0.0.weight": (8, 9, 3, 3)}
    assert "9 channels" in refusal(write(tmp_path / "model.safetensors", names)).message


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (BODY | SDXL_TEXT | {"edm_mean": (4,)}, "Playground 2.5"),
        ({UNET + "joint_blocks.0.x_block.mlp.fc1.weight": (4, 4)}, "Stable Diffusion 3"),
        ({UNET + "double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "Flux"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "Flux"),
        ({UNET + "double_stream_modulation_img.lin.weight": (4,)}, "Flux.2"),
        ({"transformer_blocks.0.img_mod.1.weight": (4,)}, "Qwen-Image"),
        ({"noise_refiner.0.attention.qkv.weight": (4,)}, "Z-Image"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)}, "LoRA"),
        ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 4)}, "LoRA"),
        ({"unet.down_blocks.0.attentions.0.to_q.lora.up.weight": (4, 4)}, "LoRA"),
        ({"diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight": (4, 4)}, "LoRA"),
        ({"lora_unet_input_blocks_4_1_proj_in.hada_w1_a": (4, 4)}, "LoRA"),
        ({"control_model.input_blocks.0.0.weight": (4, 4)}, "ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (4, 4)}, "ControlNet"),
        ({"first_stage_model.decoder.conv_in.weight": (4, 4)}, "VAE"),
        ({"decoder.conv_in.weight": (4, 4)}, "VAE"),
        ({"emb_params": (2, 768)}, "textual inversion"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "textual inversion"),
        ({"conv_first.weight": (4, 4)}, "upscaler"),
        ({"body.0.weight": (4, 4)}, "upscaler"),
        ({"something.else": (4,)}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(tmp_path: Path, names: dict[str, tuple[int, ...]], kind: str) -> None:
    error = refusal(write(tmp_path / "file.safetensors", names))
    assert kind in error.message
    assert ("tiled(pipe" in error.hint) == (kind in ("Stable Diffusion 3", "Flux", "Flux.2", "Qwen-Image", "Z-Image"))


@pytest.mark.parametrize(
    ("pipeline", "flow"),
    [
        *((name, True) for name in ("StableDiffusion3Pipeline", "FluxPipeline", "Flux2KleinPipeline")),
        *((name, True) for name in ("QwenImagePipeline", "ZImagePipeline")),
        *((name, False) for name in ("PixArtSigmaPipeline", None)),
    ],
)
def test_a_folder_of_a_family_that_tiled_knows_says_where_it_can_be_used(
    tmp_path: Path, pipeline: str | None, flow: bool
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    error = refusal(tmp_path)
    assert str(pipeline) in error.message and "Stable Diffusion XL" in error.hint
    assert ("tiled(pipe" in error.hint) == flow


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
@pytest.mark.parametrize("there", [True, False])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str, there: bool) -> None:
    file = tmp_path / f"model{suffix}"
    if there:
        file.write_bytes(b"\x80\x04.")
    error = refusal(file)
    assert "pickle" in error.message
    assert ".safetensors" in error.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4, b"not a model at all", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 3) + b"{x}"],
    ids=["empty", "short", "text", "huge-header", "no-json"],
)
def test_damaged_files_are_said_to_be(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert "no readable .safetensors" in refusal(file).message


def test_a_truncated_download_is_noticed_before_any_work(tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", SD1_NAMES)
    file.write_bytes(file.read_bytes()[:-100])
    assert "download" in refusal(file).hint


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F16", "I64"])
def test_headers_of_any_number_format_are_read(tmp_path: Path, kind: str) -> None:
    width = {"BF16": 2, "F8_E4M3": 1, "F16": 2, "I64": 8}[kind]
    header = json.dumps({"x": {"dtype": kind, "shape": [2, 3], "data_offsets": [0, 6 * width]}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6 * width))
    assert read_header(file).shapes == {"x": (2, 3)}


def test_missing_files_and_uncached_hub_models_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is no checkpoint" in refusal("nothing.safetensors").message
    assert "There is no checkpoint" in refusal("models/nothing.safetensors").message
    error = refusal("somebody/a-model")
    assert "not on this machine" in error.message
    assert "somebody/a-model" in error.hint


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    assert "model_index.json" in refusal(tmp_path).message
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "FluxPipeline" in refusal(tmp_path).message
    (tmp_path / "model_index.json").write_text("[1]")
    refusal(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["a", "b"]}')
    assert "unet" in refusal(tmp_path).message


def test_looking_imports_no_torch(tmp_path: Path) -> None:
    """`tilehires models inspect` and `plan` are quick because headers need no torch."""
    file = write(tmp_path / "model.safetensors", SD1_NAMES)
    look = f"from tilehires.diffusion import checkpoints; checkpoints.inspect({str(file)!r})"
    code = f"import sys; {look}; print('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "False", "checkpoints.inspect imports torch: import it inside functions instead"


def test_a_tiles_cost_grows_faster_than_its_area() -> None:
    for family in (SD1, SDXL):
        for side, cost in family.teraflops:
            assert family.cost(side, side) == pytest.approx(cost), "measured sizes must cost what was measured"
        assert family.cost(32, 32) == pytest.approx(family.cost(64, 64) / 4)
        sides = range(64, 320, 8)
        per_cell = [family.cost(side, side) / side**2 for side in sides]
        assert all(b >= a * 0.99 for a, b in zip(per_cell, per_cell[1:], strict=False)), "attention is quadratic"
    assert BUILTIN.cost(10, 20) == 200
