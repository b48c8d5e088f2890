"""Tiny LoRA files in every naming, and the same change added to a model's weights by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from tests import tiny
from tilehires.diffusion.components import Diffusion

Naming = Literal["diffusers", "peft", "processor", "kohya", "ldm"]
Halves = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor, float]]
"""(part, module) → (down, up, alpha)."""

UNET_MODULES = (
    "attn1.to_q",
    "attn2.to_k",
    "attn2.to_out.0",
    "ff.net.0.proj",
    "proj_in",
    "conv1",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_embedding.linear_1",
)


def halves(pipe: Any, *, rank: int = 2, alpha: float = 1.0, only_attention: bool = False, text: bool = True) -> Halves:
    """Random changes of some modules of the UNet and of every text encoder; convolutions have rank 3."""
    generator = torch.Generator().manual_seed(7)
    found: Halves = {}
    parts = {"unet": pipe.unet} | {name: getattr(pipe, name) for name in _encoders(pipe) if text}
    for part, root in parts.items():
        for name in _chosen(root, only_attention=only_attention):
            weight: Any = root.get_submodule(name).weight
            own = rank if weight.ndim == 2 else 3
            down = torch.randn((own, *weight.shape[1:]), generator=generator) * 0.3
            up = torch.randn((weight.shape[0], own, *(1,) * (weight.ndim - 2)), generator=generator) * 0.3
            found[part, name.removeprefix("text_model.")] = (down, up, alpha)
    return found


def _chosen(root: Any, *, only_attention: bool) -> list[str]:
    """The first and the last module of every kind, in the UNet also those in the middle block."""
    ends = UNET_MODULES if hasattr(root, "mid_block") else ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")
    found: list[str] = []
    for end in ends:
        names = [name for name, _ in root.named_modules() if name.endswith(end)]
        found += dict.fromkeys([*names[:1], *(name for name in names if name.startswith("mid_")), *names[-1:]])
    return [name for name in found if not only_attention or ".attn" in name or "self_attn" in name]


def write(pipe: Any, file: Path, naming: Naming, changes: Halves, metadata: Mapping[str, str] | None = None) -> Path:
    """The changes as a file; diffusers' namings hold no alpha, which then is the rank."""
    original = dict(
        zip(pipe.unet.state_dict(), tiny.single_file_state(pipe.unet, pipe.vae, tiny.text_encoders(pipe)), strict=False)
    )
    tensors: dict[str, torch.Tensor] = {}
    double = len(_encoders(pipe)) > 1
    for (part, name), (down, up, alpha) in changes.items():
        for half, value in (("down", down), ("up", up)):
            tensors[_key(part, name, half, naming, original, double)] = value.clone()
        if naming in ("kohya", "ldm"):
            tensors[_stem(part, name, naming, original, double) + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, file, dict(metadata or {}))
    return file


def by_hand(model: Diffusion, changes: Halves, *, unet: float, text: float) -> Diffusion:
    """A copy of the model with the changes added to its weights, at those weights."""
    made = copy.deepcopy(model)
    parts = {"unet": made.unet, "text_encoder": made.text_encoders[0], "text_encoder_2": made.text_encoders[-1]}
    for (part, name), (down, up, alpha) in changes.items():
        root = parts[part]
        if hasattr(root, "text_model") and part != "unet":
            root = root.text_model
        weight = root.get_submodule(name).weight
        delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        with torch.no_grad():
            weight += ((unet if part == "unet" else text) * alpha / down.shape[0] * delta).to(weight)
    return made


def _encoders(pipe: Any) -> list[str]:
    return [name for name in ("text_encoder", "text_encoder_2") if getattr(pipe, name, None) is not None]


def _stem(part: str, name: str, naming: Naming, original: Mapping[str, str], double: bool) -> str:
    if part == "unet":
        if naming == "ldm":
            name = original[name + ".weight"].removeprefix("model.diffusion_model.").removesuffix(".weight")
        return "lora_unet_" + name.replace(".", "_")
    prefix = {"text_encoder": "lora_te1" if double else "lora_te", "text_encoder_2": "lora_te2"}[part]
    return f"{prefix}_text_model_{name.replace('.', '_')}"


def _key(part: str, name: str, half: str, naming: Naming, original: Mapping[str, str], double: bool) -> str:
    if naming in ("kohya", "ldm"):
        return f"{_stem(part, name, naming, original, double)}.lora_{half}.weight"
    whole = f"{part}.{name}" if part == "unet" else f"{part}.text_model.{name}"
    if naming == "peft":
        return f"{whole}.lora_{'A' if half == 'down' else 'B'}.weight"
    if naming == "processor" and ".attn" in name:  # diffusers' first form
        block, _, layer = whole.rpartition(".attn")
        number, _, projection = layer.partition(".")
        return f"{block}.attn{number}.processor.{projection.removesuffix('.0')}_lora.{half}.weight"
    return f"{whole}.lora{'_linear_layer' if part != 'unet' else ''}.{half}.weight"
