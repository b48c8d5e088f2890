"""LoRAs on a loaded model, through peft and never fused: taken off again, the model is what it was, to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tilehires.diffusion import lora
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.lora import TEXT, TEXT_2, UNET, Delta, Lora, MisfitError
from tilehires.errors import MissingError

_INNER = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


class Adapters:
    """The LoRAs of one model. Those of the last pass stay loaded, so that a batch with one LoRA reads it once."""

    def __init__(self, model: Diffusion) -> None:
        self._model = model
        self._loaded: dict[Path, tuple[str, ...]] = {}
        self.on_text = False
        """Whether a text encoder is changed."""

    def fit(self, loras: Sequence[Lora]) -> None:
        """Put exactly these LoRAs on the model, at their weights; none takes all off. The model must rest in host memory.

        Raises MisfitError when a file is damaged or isn't for the model; no LoRA is on it then.
        """
        wanted = lora.merged(loras)
        self.on_text = any(one.text for one in wanted)
        if {one.file for one in wanted} != set(self._loaded):
            self.clear()
            try:
                for number, one in enumerate(wanted):
                    self._loaded[one.file] = self._put_on(one, number)
            except MisfitError:
                self.clear()
                raise
        for part, module in _parts(self._model).items():
            weights = [(one, one.unet if part == UNET else one.text) for one in wanted]
            active = [(name, weight) for one, weight in weights if weight for name in self._loaded[one.file]]
            for layer in _layers(module):
                own = [(name, weight) for name, weight in active if name in layer.lora_A]
                layer.set_adapter([name for name, _ in own])
                for name, weight in own:
                    layer.set_scale(name, weight)
            module.requires_grad_(False).eval()

    def clear(self) -> None:
        """Take all LoRAs off."""
        self._loaded.clear()
        for module in _parts(self._model).values():
            for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, BaseTunerLayer)]:
                parent, _, child = name.rpartition(".")
                setattr(module.get_submodule(parent), child, layer.get_base_layer())
            if hasattr(module, "peft_config"):
                del module.peft_config

    def _put_on(self, one: Lora, number: int) -> tuple[str, ...]:
        """The names of the adapters that now hold the file: one per rank and alpha, which keeps peft's patterns out."""
        groups: dict[tuple[str, int, float], dict[str, Delta]] = {}
        try:
            deltas = lora.read(one.file)
        except MissingError as error:
            raise MisfitError(one, error.message, hint=error.hint) from error
        names = {part: _names(part, module) for part, module in _parts(self._model).items()}
        known = 0
        for (part, name), delta in deltas.items():
            target = names.get(part, {}).get(name)
            if target is None:
                continue
            known += 1
            module = _parts(self._model)[part].get_submodule(target)
            groups.setdefault((part, delta.rank, delta.alpha), {})[target] = _shaped(delta, module, target, one)
        if known * 2 < len(deltas) or not known:
            raise MisfitError(
                one,
                f"{one.file.name} is no LoRA for this checkpoint: the model has {known} of the {len(deltas)} parts it "
                f"changes.",
                hint="Use a LoRA that was made for the checkpoint's family.",
            )
        made = []
        for i, ((part, rank, alpha), group) in enumerate(groups.items()):
            made.append(f"lora{number}_{i}")
            _inject(_parts(self._model)[part], made[-1], rank, alpha, group)
        return tuple(made)


def _inject(module: nn.Module, adapter: str, rank: int, alpha: float, group: dict[str, Delta]) -> None:
    config = LoraConfig(r=rank, target_modules=list(group), init_lora_weights=False)
    config.lora_alpha = alpha  # pyright: ignore[reportAttributeAccessIssue] - annotated as int; files hold fractions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice on several adapters in one model, which is what we want
        inject_adapter_in_model(config, module, adapter_name=adapter, low_cpu_mem_usage=True)
    for name, delta in group.items():
        layer: Any = module.get_submodule(name)
        weight = layer.get_base_layer().weight
        for half, value in ((layer.lora_A[adapter], delta.down), (layer.lora_B[adapter], delta.up)):
            half.weight = nn.Parameter(value.to(weight), requires_grad=False)


def _shaped(delta: Delta, module: Any, name: str, one: Lora) -> Delta:
    """The change in the module's own form: 1×1 convolutions are matrices in some files. Raises MisfitError."""
    down, up, weight = delta.down, delta.up, module.weight
    if weight.ndim == 2:
        down, up = (half.flatten(1) if half.shape[2:].numel() == 1 else half for half in (down, up))
    elif down.ndim == 2:
        down, up = down[..., None, None], up[..., None, None]
    want = (weight.shape[1:], weight.shape[:1])
    if (down.shape[1:], up.shape[:1]) != want or up.shape[2:].numel() != 1:
        raise MisfitError(
            one,
            f"{one.file.name} doesn't fit the checkpoint: {name} is {tuple(weight.shape)}, and the LoRA's "
            f"{tuple(up.shape)} by {tuple(down.shape)}.",
            hint="It was made for another family. Use one that was made for the checkpoint's.",
        )
    return Delta(down, up, delta.alpha)


def _parts(model: Diffusion) -> dict[str, nn.Module]:
    names = (TEXT, TEXT_2) if len(model.text_encoders) > 1 else (TEXT,)
    return {UNET: model.unet, **dict(zip(names, model.text_encoders, strict=True))}


def _layers(module: nn.Module) -> Iterator[Any]:
    return (layer for layer in module.modules() if isinstance(layer, BaseTunerLayer))


def _names(part: str, module: nn.Module) -> dict[str, str]:
    """What files call a module → its name: with "_" for ".", in diffusers' and in the original checkpoint's names."""
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        name = name.replace(".base_layer", "")
        if not isinstance(layer, nn.Linear | nn.Conv2d) or ".lora_" in name:
            continue
        aliases = [name.removeprefix("text_model.") if part != UNET else name]
        if part == UNET:
            aliases.append(_original(name, module))
        for alias in aliases:
            found.setdefault(alias.replace(".", "_"), name)
            if alias.endswith(".to_out.0"):  # diffusers' first files left the zero out
                found.setdefault(alias.removesuffix(".0").replace(".", "_"), name)
    return found


def _original(name: str, unet: Any) -> str:
    """A UNet module's name in the original checkpoints: level and layer are counted through."""
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
    }
    if name in fixed:
        return fixed[name]
    words = name.split(".")
    layers = unet.config.layers_per_block
    if words[0] == "mid_block":
        place = "middle_block.1" if words[1] == "attentions" else f"middle_block.{2 * int(words[2])}"
        kind, rest = words[1], words[3:]
    else:
        level, kind, index, rest = int(words[1]), words[2], int(words[3]), words[4:]
        down = words[0] == "down_blocks"
        root = (
            f"input_blocks.{(layers + 1) * level + 1 + index}"
            if down
            else f"output_blocks.{(layers + 1) * level + index}"
        )
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.op"
        if kind == "upsamplers":
            attended = hasattr(unet.up_blocks[level], "attentions")
            return f"output_blocks.{(layers + 1) * level + layers}.{2 if attended else 1}.conv"
        place = f"{root}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        rest = [_INNER.get(rest[0], rest[0]), *rest[1:]]
    return ".".join([place, *rest])
