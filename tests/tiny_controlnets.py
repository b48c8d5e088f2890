"""Tiny random ControlNets that fit the tiny models, and their files in every layout that people have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny


def controlnet(unet: Any, seed: int = 0) -> ControlNetModel:
    """A ControlNet for that UNet, whose closing convolutions are random, not zero as before training."""
    torch.manual_seed(seed)
    model = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16))
    for name, weight in model.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(weight, std=0.2)
    return model.requires_grad_(False).eval()


def write(model: ControlNetModel, path: Path, names: Literal["diffusers", "original", "bare"]) -> Path:
    """As one .safetensors file; "bare": original names without their prefix, as some are distributed."""
    state = model.state_dict() if names == "diffusers" else original_state(model)
    prefix = "control_model." if names == "original" else ""
    save_file({prefix + name: value.contiguous().clone() for name, value in state.items()}, path)
    return path


def original_state(model: ControlNetModel) -> dict[str, Tensor]:
    """The tensors under the names of the original repository (lllyasviel/ControlNet, cldm.py)."""
    weights = model.state_dict()
    encoder = {name: value for name, value in weights.items() if not name.startswith("controlnet_")}
    twin: Any = SimpleNamespace(config=model.config, state_dict=lambda: encoder)
    state = {name.removeprefix("model.diffusion_model."): value for name, value in tiny.unet_state(twin).items()}
    for name, value in weights.items():
        if name.startswith("controlnet_down_blocks."):
            _, number, kind = name.split(".")
            state[f"zero_convs.{number}.0.{kind}"] = value
        elif name.startswith("controlnet_mid_block."):
            state["middle_block_out.0." + name.split(".")[1]] = value
        elif name.startswith("controlnet_cond_embedding."):
            part, kind = name.removeprefix("controlnet_cond_embedding.").rsplit(".", 1)
            place = {"conv_in": 0, "conv_out": 14}.get(part)
            place = 2 * (int(part.split(".")[1]) + 1) if place is None else place
            state[f"input_hint_block.{place}.{kind}"] = value
    return state
