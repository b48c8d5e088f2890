"""What a .safetensors file holds, from its header alone: names and shapes of its tensors. Reads no weights, runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilehires.errors import MissingError

CONFIGS = Path(__file__).parent / "configs"
UNET = "model.diffusion_model."
VAE = "first_stage_model."
# The text encoder's place tells the family. SDXL's refiner has bigG alone, in the first place.
TEXT = {
    "sdxl": "conditioner.embedders.1.model.",
    "sdxl-refiner": "conditioner.embedders.0.model.",
    "sd2": "cond_stage_model.model.",
    "sd1": "cond_stage_model.transformer.",
}
# Families that are known by a mark of theirs and can't be run yet, and files that are no checkpoints.
OTHERS = (
    # First: a LoRA's names hold those of the family it was made for.
    (
        "a LoRA",
        re.compile(r"lora_(up|down|A|B)\b|\.lora\.(up|down)\.|lora_linear_layer|^lora_(unet|te)|\.(hada_w1|lokr_w1)"),
    ),
    ("Stable Diffusion 3", re.compile(r"(^|\.)joint_blocks\.0\.")),
    ("Flux.2", re.compile(r"(^|\.)double_stream_modulation_img\.")),
    ("Flux", re.compile(r"(^|\.)double_blocks\.0\.img_attn")),
    ("Qwen-Image", re.compile(r"(^|\.)transformer_blocks\.0\.img_mod")),
    ("Z-Image", re.compile(r"(^|\.)noise_refiner\.0\.")),
    ("Playground 2.5", re.compile(r"^edm_mean$")),
    ("Stable Cascade", re.compile(r"(^|\.)clip_txt_mapper\.")),
    ("a ControlNet", re.compile(r"^(control_model\.|controlnet_cond_embedding\.|input_hint_block\.)")),
    ("a VAE", re.compile(r"^(first_stage_model\.|decoder\.conv_in\.)")),
    ("a textual inversion embedding", re.compile(r"^(emb_params|clip_[lg]|string_to_param)$")),
    ("an upscaler or another image model", re.compile(r"^(conv_first|body\.\d|model\.\d+\.|params)")),
)


@dataclass(frozen=True)
class Header:
    """Tensor shapes by name, and the file's own text metadata."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    training_steps: int | None = None
    """The original files' own count, where there is one."""

    @property
    def kind(self) -> str:
        """ "sd1", "sd2", "sdxl" or "sdxl-refiner" for a checkpoint with a text encoder; else a description, such as "a LoRA"."""
        if UNET + "input_blocks.0.0.weight" in self.shapes and "edm_mean" not in self.shapes:
            for family, prefix in TEXT.items():
                if any(name.startswith(prefix) for name in self.shapes):
                    return family
            return "a UNet without its text encoder"
        for kind, mark in OTHERS:
            if any(mark.search(name) for name in self.shapes):
                return kind
        return "of an unknown kind"

    @property
    def has_vae(self) -> bool:
        return any(name.startswith(VAE + "decoder.") for name in self.shapes)

    @property
    def input_channels(self) -> int:
        """Channels the UNet takes: 4, or 9 for an inpainting model."""
        return self.shapes[UNET + "input_blocks.0.0.weight"][1]

    @property
    def prediction(self) -> str:
        """ "v_prediction" or "epsilon": by the marker tensor, the metadata, and for SD 2.x by what the family's models do."""
        if "v_pred" in self.shapes:
            return "v_prediction"
        said = self.metadata.get("modelspec.prediction_type", "").lower()
        if said in ("v", "v_prediction", "v-prediction"):
            return "v_prediction"
        if said in ("epsilon", "eps"):
            return "epsilon"
        # SD 2.x's two models differ in nothing else: the one that predicts the noise was trained for 875000 steps.
        return "v_prediction" if self.kind == "sd2" and self.training_steps != 875_000 else "epsilon"

    @property
    def zero_terminal_snr(self) -> bool:
        """Trained down to pure noise: the betas must be rescaled (Lin et al. 2023, "Common Diffusion Noise Schedules …")."""
        return "ztsnr" in self.shapes

    def count(self, prefix: str) -> int:
        """How many numbered children a prefix has: "…layers." with 0 … 11 is 12."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return 1 + max((int(m[1]) for name in self.shapes if (m := pattern.match(name))), default=-1)

    def parameters(self, prefix: str) -> int:
        """Numbers held under a prefix."""
        total = 0
        for name, shape in self.shapes.items():
            if name.startswith(prefix):
                product = 1
                for side in shape:
                    product *= side
                total += product
        return total


def vae_header(path: Path) -> Header:
    """The header of a VAE's own .safetensors file. Raises MissingError when it is none, or holds something else."""
    header = read_header(path)
    if header.kind != "a VAE":
        raise MissingError(f"{path.name} is {header.kind}, not a VAE.", hint="Check model.vae, or leave it away.")
    return header


def read_header(path: Path) -> Header:
    """The header of a .safetensors file. Raises MissingError when there is none, or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        # "numpy", so that nothing heavy is imported; no tensor is read.
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
            counted = int(file.get_tensor("global_step")) if shapes.get("global_step") == () else None
            return Header(shapes, dict(file.metadata() or {}), counted)
    except (SafetensorError, OSError) as error:
        raise MissingError(
            f"{path} is no readable .safetensors file: {error}.", hint="It may be cut short: download it again."
        ) from error


def unet_config(header: Header, base: Mapping[str, Any]) -> dict[str, Any]:
    """The UNet's config for the shapes at hand, on the family's own as `base` (which real checkpoints match exactly)."""
    shapes, root = header.shapes, UNET + "input_blocks."
    channels: list[int] = [shapes[root + "0.0.weight"][0]]
    depths, layers = [0], [0]
    for i in range(1, header.count(root)):
        block = f"{root}{i}."
        if f"{block}0.op.weight" in shapes:
            channels.append(channels[-1])
            depths.append(0)
            layers.append(0)
            continue
        channels[-1] = shapes[block + "0.in_layers.2.weight"][0]
        layers[-1] += 1
        depths[-1] = header.count(block + "1.transformer_blocks.")
    middle = header.count(UNET + "middle_block.1.transformer_blocks.")
    config = {**base, "block_out_channels": channels, "layers_per_block": layers[0]}
    config["in_channels"] = header.input_channels
    config["out_channels"] = shapes[UNET + "out.2.weight"][0]
    first = next((n for n in shapes if n.startswith(root) and n.endswith("attn2.to_k.weight")), None)
    if first:
        config["cross_attention_dim"] = shapes[first][1]
    if isinstance(base["attention_head_dim"], list):  # heads of 64 channels, where SD 1.x has 8 heads everywhere
        config["attention_head_dim"] = [max(1, width // 64) for width in channels]
    if any(depth > 1 for depth in (*depths, middle)):
        # The last entry is the middle block's too, which attends also where the last level doesn't (SDXL's refiner).
        layered = [*(max(1, depth) for depth in depths[:-1]), depths[-1] or max(1, middle)]
        config["transformer_layers_per_block"] = layered
    elif "transformer_layers_per_block" in base:
        config["transformer_layers_per_block"] = [1] * len(channels)
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config["down_block_types"] = kinds
    config["up_block_types"] = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    added = UNET + "label_emb.0.0.weight"
    if added in shapes:
        config["projection_class_embeddings_input_dim"] = shapes[added][1]
        kind = "sdxl-refiner" if header.kind == "sdxl-refiner" else "sdxl"
        pooled = shapes.get(TEXT[kind] + "text_projection", (0, 0))[1]
        config["addition_time_embed_dim"] = (shapes[added][1] - pooled) // (5 if kind == "sdxl-refiner" else 6)
    return config


def base_config(family: str, part: str, name: str = "config.json") -> dict[str, Any]:
    """The config that comes with tilehires for a part of a family's models ("": of the whole), before a header corrects it."""
    return json.loads((CONFIGS / family / part / name).read_text(encoding="utf-8"))


def vae_config(header: Header, base: Mapping[str, Any]) -> dict[str, Any]:
    """As `unet_config`, for the VAE."""
    shapes, levels = header.shapes, header.count(VAE + "encoder.down.")
    channels = [shapes[f"{VAE}encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return {
        **base,
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": header.count(VAE + "encoder.down.0.block."),
        "latent_channels": shapes[VAE + "decoder.conv_in.weight"][1],
    }


def clip_config(
    header: Header, base: Mapping[str, Any], prefix: str, *, open_clip: bool, drop: int = 0
) -> dict[str, Any]:
    """As `unet_config`, for a text encoder under `prefix` in CLIP's or open_clip's names; `drop`: last layers left out."""
    shapes = header.shapes
    if open_clip:
        tokens, layers, inner = "token_embedding.weight", "transformer.resblocks.", "mlp.c_fc.weight"
    else:
        prefix += "text_model."
        tokens, layers, inner = "embeddings.token_embedding.weight", "encoder.layers.", "mlp.fc1.weight"
    vocabulary, width = shapes[prefix + tokens]
    config = {
        **base,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": header.count(prefix + layers) - drop,
        "intermediate_size": shapes[f"{prefix}{layers}0.{inner}"][0],
        "num_attention_heads": max(1, width // 64),
    }
    if prefix + "text_projection" in shapes and "Projection" in base["architectures"][0]:
        config["projection_dim"] = shapes[prefix + "text_projection"][1]
    return config
