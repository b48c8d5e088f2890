"""Read a checkpoint's weights into diffusers' and transformers' own classes. Called by the bay only."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from tilehires.diffusion.checkpoints import PARTS, PICKLES, Checkpoint, vae_path, weights_of
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.family import REFINER
from tilehires.diffusion.header import (
    TEXT,
    Header,
    base_config,
    clip_config,
    read_header,
    unet_config,
    vae_config,
    vae_header,
)
from tilehires.diffusion.vocabulary import clip_tokenizer
from tilehires.errors import MissingError

_PIPELINES: Mapping[str, Any] = {"sdxl": StableDiffusionXLPipeline, "sdxl-refiner": StableDiffusionXLImg2ImgPipeline}


def load(checkpoint: Checkpoint, dtype: torch.dtype, vae: str | None) -> Diffusion:
    """The checkpoint's parts in host memory, in `dtype`. `vae`: another VAE's file or folder.

    Raises MissingError when the weights are damaged or incomplete.
    """
    with _understood(checkpoint), _quiet():
        other = {} if vae is None else {"vae": load_vae(vae_path(vae), dtype)}
        read = _from_single if checkpoint.layout == "single-file" else _from_folder
        pipe = read(checkpoint, dtype, other)
    heard = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipe, name, None) is not None]
    parts = Diffusion(
        unet=pipe.unet,
        vae=pipe.vae,
        text_encoders=tuple(getattr(pipe, name) for name in heard),
        tokenizers=tuple(getattr(pipe, name.replace("text_encoder", "tokenizer")) for name in heard),
        scheduler_config=_scheduler_config(pipe.scheduler.config, checkpoint),
        zero_empty_negative=bool(pipe.config.get("force_zeros_for_empty_prompt", False)),
        scored=checkpoint.family is REFINER,
    )
    for module in parts.modules():
        _check_complete(module, checkpoint.reference)
        in_own_memory(module).requires_grad_(False).eval()
    return parts


def in_own_memory(module: nn.Module) -> nn.Module:
    """The module with its weights copied out of the mapped file they came from.

    There a tensor begins at any byte, and some CPU kernels round unaligned weights otherwise: the same model would give other
    pictures from a folder than from a single file.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    return module


def _scheduler_config(own: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's scheduler config with what is known better. diffusers forgets keys it notes as defaults: unnote ours."""
    known: dict[str, Any] = {"prediction_type": checkpoint.prediction}
    if checkpoint.zero_terminal_snr:
        known |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    defaults = [name for name in own.get("_use_default_values", ()) if name not in known]
    return {**own, **known, "_use_default_values": defaults}


def _check_complete(module: nn.Module, reference: str) -> None:
    """Raise MissingError when tensors of the model were not in its files: the libraries only warn of it."""
    lost = [name for name, value in module.state_dict().items() if value.is_meta]
    if lost:
        raise MissingError(
            f"{reference} lacks {len(lost)} tensors of {type(module).__name__}, such as {lost[0]}.",
            hint="The file is incomplete: get it again, or try another checkpoint.",
        )


def load_vae(path: Path, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
    """A VAE from a diffusers folder or a .safetensors file of its own. Raises MissingError."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingError(f"{path} is no VAE's folder: it holds no config.json.", hint="Check model.vae.")
        weights_of(path)  # says that it holds pickles alone, where it does
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
        return kind.from_pretrained(path, local_files_only=True, torch_dtype=dtype, use_safetensors=True)
    if not path.is_file():
        raise MissingError(f"There is no VAE {path}.", hint="Check model.vae, or leave it away.")
    if path.suffix.lower() in PICKLES:
        raise MissingError(f"{path.name} is a pickle.", hint="Get the .safetensors version of the VAE.")
    header = vae_header(path)
    prefix = "first_stage_model." if any(n.startswith("first_stage_model.") for n in header.shapes) else ""
    named = Header({"first_stage_model." + n.removeprefix(prefix): s for n, s in header.shapes.items()}, {})
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "vae" / "config.json", vae_config(named, base_config("sd1", "vae")))
        return AutoencoderKL.from_single_file(
            str(path), config=folder, subfolder="vae", local_files_only=True, torch_dtype=dtype
        )


def _from_folder(checkpoint: Checkpoint, dtype: torch.dtype, other: Mapping[str, Any]) -> Any:
    kind = _PIPELINES.get(checkpoint.family.name, StableDiffusionPipeline)
    unused: dict[str, Any] = (
        {"safety_checker": None, "requires_safety_checker": False} if kind is StableDiffusionPipeline else {}
    )
    pipe = kind.from_pretrained(
        checkpoint.path,
        local_files_only=True,
        torch_dtype=dtype,
        use_safetensors=True,
        # Parts that have no such variant are still taken as they are.
        variant="fp16" if any(".fp16" in file.name for file in checkpoint.files) else None,
        low_cpu_mem_usage=True,
        **unused,
        **other,
    )
    for part in PARTS:
        module = getattr(pipe, part, None)
        if module is None or part in other:
            continue
        held = sum(read_header(file).parameters("") for file in weights_of(checkpoint.path / part))
        # By their number, as older files go by other names; what is not in them would be random.
        if held < sum(value.numel() for value in module.parameters()):
            raise MissingError(
                f"{checkpoint.path / part} lacks some of the model's weights.", hint="Get the folder again."
            )
    return pipe


def _from_single(checkpoint: Checkpoint, dtype: torch.dtype, other: Mapping[str, Any]) -> Any:
    header, family = read_header(checkpoint.path), checkpoint.family.name
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, config in configs(header, family).items():
            _write(folder / part, config)
        common: dict[str, Any] = {"config": name, "local_files_only": True, "torch_dtype": dtype, **other}
        if kind := _PIPELINES.get(family):
            tokenizers = {"tokenizer": clip_tokenizer()} if family == "sdxl" else {}
            tokenizers["tokenizer_2"] = clip_tokenizer(pad="!")
            return kind.from_single_file(str(checkpoint.path), **common, **tokenizers)
        pad = "!" if family == "sd2" else "<|endoftext|>"
        parts = {"tokenizer": clip_tokenizer(pad=pad), "safety_checker": None}
        return StableDiffusionPipeline.from_single_file(str(checkpoint.path), **common, **parts)


def configs(header: Header, family: str) -> dict[str, dict[str, Any]]:
    """The files of a diffusers config folder for a single-file checkpoint, by their paths in it."""
    base = partial(base_config, family)
    files = {
        "model_index.json": base("", "model_index.json"),
        "scheduler/scheduler_config.json": base("scheduler", "scheduler_config.json"),
        "unet/config.json": unet_config(header, base("unet")),
        "vae/config.json": vae_config(header, base("vae")) if header.has_vae else base("vae"),
    }
    text = "text_encoder/config.json"
    if family == "sdxl-refiner":
        second = base("text_encoder_2")
        files["text_encoder_2/config.json"] = clip_config(header, second, TEXT[family], open_clip=True)
    elif family == "sdxl":
        files[text] = clip_config(header, base("text_encoder"), "conditioner.embedders.0.transformer.", open_clip=False)
        second = base("text_encoder_2")
        files["text_encoder_2/config.json"] = clip_config(header, second, TEXT["sdxl"], open_clip=True)
    else:
        # SD 2.x listens to the last layer but one: diffusers leaves the last one out of the model.
        second_last = family == "sd2"
        files[text] = clip_config(
            header, base("text_encoder"), TEXT[family], open_clip=second_last, drop=int(second_last)
        )
    return files


def _write(path: Path, body: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")


@contextlib.contextmanager
def _understood(checkpoint: Checkpoint) -> Iterator[None]:
    """The libraries' many ways of saying that a file is damaged, as one error."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, SingleFileComponentError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingError(
            f"{checkpoint.reference} can't be loaded: {first[:300]}",
            hint="The file may be damaged or incomplete: get it again, or try another checkpoint.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' advice about things we decided on purpose off the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    try:
        for module in bars:
            module.disable_progress_bar()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for module in bars:
            module.enable_progress_bar()
