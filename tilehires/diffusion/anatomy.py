"""How large a checkpoint's parts are, from headers and configs alone: what the planner counts with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from tilehires.diffusion.checkpoints import Checkpoint, vae_path, weights_of
from tilehires.diffusion.header import UNET, VAE, Header, base_config, read_header, vae_config, vae_header


@dataclass(frozen=True, slots=True)
class VaeAnatomy:
    """`channels` per level from the full resolution down; `tiny`: an AutoencoderTiny; `upcast`: float16 is refused."""

    parameters: int
    channels: tuple[int, ...]
    tiny: bool
    upcast: bool

    @property
    def values_per_pixel(self) -> int:
        """Numbers that live at once per pixel in the larger of encode and decode (benchmarks/memory.py measures it)."""
        first, second = self.channels[0], self.channels[min(1, len(self.channels) - 1)]
        if self.tiny:
            return 3 * first + 3
        # Encoding: five maps at full resolution. Decoding: the last block gets twice the channels, upsampled.
        return max(5 * first, 3 * second, second + 4 * first)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Counts of numbers: the text encoders', and the UNet's largest layer's."""

    text: int
    unet_layer: int
    vae: VaeAnatomy


@cache
def anatomy(checkpoint: Checkpoint, vae: str | None) -> Anatomy:
    """Of a checkpoint with its own VAE, or that of model.vae. Raises MissingError when its files can't be read."""
    if checkpoint.layout == "single-file":
        header = read_header(checkpoint.path)
        text = sum(header.parameters(prefix) for prefix in ("cond_stage_model.", "conditioner."))
        layer = _largest([header], UNET)
        own = _single_vae(header, checkpoint.family.name) if vae is None else None
    else:
        folders = [checkpoint.path / name for name in ("text_encoder", "text_encoder_2")]
        text = sum(read_header(f).parameters("") for folder in folders if folder.is_dir() for f in weights_of(folder))
        layer = _largest([read_header(file) for file in weights_of(checkpoint.path / "unet")], "")
        own = _folder_vae(checkpoint.path / "vae") if vae is None else None
    return Anatomy(text, layer, own or _named_vae(vae_path(str(vae)), checkpoint.family.name))


def _named_vae(path: Path, family: str) -> VaeAnatomy:
    return _folder_vae(path) if path.is_dir() else _single_vae(vae_header(path), family)


def _single_vae(header: Header, family: str) -> VaeAnatomy:
    prefixed = any(name.startswith(VAE) for name in header.shapes)
    named = header if prefixed else Header({VAE + name: shape for name, shape in header.shapes.items()}, {})
    return _anatomy(vae_config(named, base_config(family, "vae")), named.parameters(VAE))


def _folder_vae(folder: Path) -> VaeAnatomy:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _anatomy(config, sum(read_header(file).parameters("") for file in weights_of(folder)))


def _anatomy(config: Mapping[str, Any], parameters: int) -> VaeAnatomy:
    tiny = config.get("_class_name") == "AutoencoderTiny"
    channels = config.get("encoder_block_out_channels" if tiny else "block_out_channels") or (64 if tiny else 128,)
    return VaeAnatomy(parameters, tuple(channels), tiny, bool(config.get("force_upcast", not tiny)))


def _largest(headers: Iterable[Header], prefix: str) -> int:
    return max(
        (prod(shape) for header in headers for name, shape in header.shapes.items() if name.startswith(prefix)),
        default=0,
    )
