"""Find a ControlNet's files, tell whether it fits the checkpoint, and load it: offline, from headers first.

A diffusers folder, or a .safetensors file in diffusers' or the original repository's names. Pickles are never loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilehires.diffusion.checkpoints import PICKLES, Checkpoint, weights_of
from tilehires.diffusion.header import base_config, read_header, unet_config
from tilehires.errors import MissingError

PREFIX = "control_model."
# What sets the families' ControlNets apart at a glance: the width of what their attention listens to.
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
# What of a UNet's config its ControlNet shares.
_SHARED = (
    *("act_fn", "addition_embed_type", "addition_time_embed_dim", "attention_head_dim", "block_out_channels"),
    *("cross_attention_dim", "down_block_types", "downsample_padding", "flip_sin_to_cos", "freq_shift"),
    *("layers_per_block", "mid_block_scale_factor", "norm_eps", "norm_num_groups", "num_attention_heads"),
    *("projection_class_embeddings_input_dim", "transformer_layers_per_block", "use_linear_projection"),
    "upcast_attention",
)


@dataclass(frozen=True)
class ControlNetFile:
    """A ControlNet that fits the checkpoint, as far as its headers tell. `config`: ControlNetModel's, as JSON."""

    path: Path
    files: tuple[Path, ...]
    """Its weights."""
    config: str

    @property
    def shaping(self) -> tuple[Path, ...]:
        """All files that change a picture: weights, and a folder's config."""
        return (*self.files, self.path / "config.json") if self.path.is_dir() else self.files


def inspect(reference: str, checkpoint: Checkpoint) -> ControlNetFile:
    """Find a ControlNet by its path, and make sure that it is of the checkpoint's family. Raises MissingError."""
    path = Path(reference).expanduser()
    unet = _unet_config(checkpoint)
    if path.suffix.lower() in PICKLES:
        raise MissingError(
            f"{path.name} is a pickle, which can run code when it is loaded.",
            hint="Get the .safetensors version of the ControlNet.",
        )
    if path.is_dir():
        config, files = _folder_config(path), weights_of(path)
    elif path.is_file():
        config, files = _file_config(path, unet), (path,)
    else:
        raise MissingError(
            f"There is no ControlNet {reference}.", hint="Check the path in the setting `controlnet` of the pass."
        )
    _check_fits(path, config, unet, checkpoint)
    return ControlNetFile(path, files, json.dumps(config))


def load(found: ControlNetFile, dtype: Any) -> Any:
    """The ControlNetModel in host memory, in `dtype`. Raises MissingError when its weights are damaged or incomplete."""
    import torch
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = json.loads(found.config)
    try:
        # Copied, for their own memory's alignment: on a file's, some kernels round otherwise.
        state = {name: value.to(dtype, copy=True) for file in found.files for name, value in load_file(file).items()}
        with torch.device("meta"):
            model: Any = ControlNetModel.from_config(config)
        model.load_state_dict(_renamed(state, config.get("layers_per_block", 2)), strict=True, assign=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        raise MissingError(
            f"The ControlNet {found.path} can't be loaded: {(str(error).splitlines() or [''])[0][:300]}",
            hint="The file may be damaged or of a kind that isn't supported: get it again, or try another.",
        ) from error
    return model.requires_grad_(False).eval()


def parameters(found: ControlNetFile) -> int:
    """Numbers in its files, from their headers."""
    return sum(read_header(file).parameters("") for file in found.files)


def _unet_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if checkpoint.layout == "single-file":
        return unet_config(read_header(checkpoint.path), base_config(checkpoint.family.name, "unet"))
    return json.loads((checkpoint.path / "unet" / "config.json").read_text(encoding="utf-8"))


def _folder_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingError(
            f"{path} is no ControlNet's folder: its config.json can't be read.",
            hint="Name the folder that holds config.json and a .safetensors file.",
        ) from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "ControlNetModel":
        raise MissingError(f"{path} holds a {kind}, not a ControlNetModel.", hint="Other kinds can't be run.")
    return config


def _file_config(path: Path, unet: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a bare file: what its shapes tell, the rest as the UNet's that it was copied from."""
    header = read_header(path)
    if header.kind != "a ControlNet" or any("control_add_embedding" in name for name in header.shapes):
        kind = "a union ControlNet" if header.kind == "a ControlNet" else header.kind
        raise MissingError(
            f"{path.name} is {kind}, not a ControlNet.", hint="Check hires.controlnet and tiled.controlnet."
        )
    shapes = _renamed(header.shapes, int(unet["layers_per_block"]))
    if not {"conv_in.weight", "controlnet_cond_embedding.conv_in.weight"} <= set(shapes):
        raise MissingError(f"{path.name} lacks its first layers.", hint="The file may be damaged: get it again.")

    def count(prefix: str) -> int:
        found = {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
        return len(found)

    config = {key: unet[key] for key in _SHARED if key in unet}
    levels = count("down_blocks.")
    depths = [count(f"down_blocks.{i}.attentions.0.transformer_blocks.") for i in range(levels)]
    widths = [shapes.get(f"down_blocks.{i}.resnets.0.conv1.weight", (0,))[0] for i in range(levels)]
    heard = [shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    hint = "controlnet_cond_embedding."
    blocks = [shapes[f"{hint}blocks.{i}.weight"][0] for i in range(1, count(hint + "blocks."), 2)]
    config |= {
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if count("mid_block.attentions.") else "UNetMidBlock2D",
        "cross_attention_dim": heard[0] if heard else 0,
        "addition_embed_type": "text_time" if "add_embedding.linear_1.weight" in shapes else None,
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes[hint + "conv_in.weight"][1],
        "conditioning_embedding_out_channels": [shapes[hint + "conv_in.weight"][0], *blocks],
    }
    if any(depth > 1 for depth in depths):
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    return config


def _renamed(state: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Tensors, or their shapes, by diffusers' names: its converter only renames, so it does so with either."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    renamed = convert_controlnet_checkpoint(dict(state), {"layers_per_block": layers})
    for number, place in ((1, 0), (2, 2)):  # SDXL's size conditions, which the converter leaves out
        for kind in ("weight", "bias"):
            original = f"label_emb.0.{place}.{kind}"
            value = state.get(original, state.get(PREFIX + original))
            if value is not None:
                renamed[f"add_embedding.linear_{number}.{kind}"] = value
    return {name: value for name, value in renamed.items() if value is not None}


def _check_fits(path: Path, config: Mapping[str, Any], unet: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise MissingError for a ControlNet of another family: it can't be joined to this UNet."""

    def shape(of: Mapping[str, Any]) -> tuple[Any, ...]:
        width = of.get("cross_attention_dim", 1280)
        width = width[0] if isinstance(width, list) else width
        return (width, list(of["block_out_channels"]), of.get("layers_per_block", 2), of.get("addition_embed_type"))

    steps = len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))) - 1
    if (
        shape(config) == shape(unet)
        and 2**steps == checkpoint.vae_factor
        and config.get("in_channels", 4) == unet["out_channels"]
    ):
        return
    made_for = _WIDTHS.get(shape(config)[0], "another model")
    raise MissingError(
        f"The ControlNet {path.name} is made for {made_for}, and doesn't fit the checkpoint, {checkpoint.family.title}.",
        hint=f"Use a ControlNet of {checkpoint.family.title}, or take hires.controlnet and tiled.controlnet away.",
    )
