"""Tiny random-weight models with the real ones' layouts, built offline in tenths of a second, and their files.

What no tensor's shape tells (GroupNorm's groups, attention heads) is as in the real families, so that the single files
load by the very code that loads a real checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.vocabulary import clip_tokenizer

State = dict[str, Tensor]
AnyPipeline = StableDiffusionPipeline | StableDiffusionXLPipeline | StableDiffusionXLImg2ImgPipeline
Pipeline = TypeVar("Pipeline", bound=AnyPipeline)

# diffusers annotates its tuples as of one entry and its schedulers as an enum: called by these names, they go unchecked.
_unet: Any = UNet2DConditionModel
_kl: Any = AutoencoderKL
_sd_pipeline: Any = StableDiffusionPipeline
_sdxl_pipeline: Any = StableDiffusionXLPipeline
_refiner_pipeline: Any = StableDiffusionXLImg2ImgPipeline
_tokenizer = cache(clip_tokenizer)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def noise(*shape: int, seed: int) -> Tensor:
    """Of that shape; the seed alone decides it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sd15(seed: int = 0, *, sample_size: int = 8, channels: int = 4) -> StableDiffusionPipeline:
    """A tiny SD 1.5 pipeline: VAE ×8 with 4 latent channels, CLIP's real vocabulary; native size 64 px.

    `channels` that the UNet takes: 9 for an inpainting model.
    """
    torch.manual_seed(seed)
    return _resting(
        _sd_pipeline(
            vae=_vae(0.18215),
            text_encoder=CLIPTextModel(_text_config(hidden=32, layers=3)),
            tokenizer=_tokenizer(),
            unet=_unet_sd(sample_size, heads=8, linear=False, channels=channels),
            scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sd2(seed: int = 0, *, sample_size: int = 12) -> StableDiffusionPipeline:
    """A tiny SD 2.x pipeline with v-prediction and an OpenCLIP-like text encoder; native size 96 px."""
    torch.manual_seed(seed)
    return _resting(
        _sd_pipeline(
            vae=_vae(0.18215),
            text_encoder=CLIPTextModel(_text_config(hidden=32, layers=3, act="gelu")),
            tokenizer=_tokenizer("!"),
            unet=_unet_sd(sample_size, heads=(1, 1, 1, 1), linear=True),
            scheduler=DDIMScheduler(
                **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(seed: int = 0, *, sample_size: int = 16, channels: int = 4) -> StableDiffusionXLPipeline:
    """A tiny SDXL pipeline: two text encoders of different width, time ids; native size 128 px."""
    torch.manual_seed(seed)
    widths = (32, 64, 64)
    # Encoder 2 has 11 layers and a width of its own: diffusers' single-file loader tells the two apart by just that.
    second = _text_config(hidden=48, layers=11, act="gelu")
    unet = _unet(
        sample_size=sample_size,
        in_channels=channels,
        block_out_channels=widths,
        layers_per_block=2,
        cross_attention_dim=32 + 48,
        attention_head_dim=(1, 1, 1),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 48,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return _resting(
        _sdxl_pipeline(
            vae=_vae(0.13025),
            text_encoder=CLIPTextModel(_text_config(hidden=32, layers=3)),
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer=_tokenizer(),
            tokenizer_2=_tokenizer("!"),
            unet=unet,
            scheduler=sdxl_scheduler(),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    )


def refiner(seed: int = 0, *, sample_size: int = 16) -> StableDiffusionXLImg2ImgPipeline:
    """A tiny SDXL refiner: the second text encoder alone, an aesthetic score, a last level without attention."""
    torch.manual_seed(seed)
    unet = _unet(
        sample_size=sample_size,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=48,
        attention_head_dim=(1, 1, 1, 1),
        transformer_layers_per_block=(1, 2, 2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 5 + 48,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return _resting(
        _refiner_pipeline(
            vae=_vae(0.13025),
            text_encoder=None,
            text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden=48, layers=11, act="gelu")),
            tokenizer=None,
            tokenizer_2=_tokenizer("!"),
            unet=unet,
            scheduler=sdxl_scheduler(),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
    )


def sdxl_scheduler() -> Any:
    """As SDXL's files have it. The last two are DDIM's: the original's config carries them for who changes the sampler."""
    rest = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
    return EulerDiscreteScheduler.from_config({**BETAS, **rest})


def _resting(pipe: Pipeline) -> Pipeline:
    """In the mode that loaded models are in: training mode takes other kernels, which differ in the last bits."""
    for module in (pipe.unet, pipe.vae, *text_encoders(pipe)):
        module.requires_grad_(False).eval()
    return pipe


def _text_config(*, hidden: int, layers: int, act: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=hidden,
        intermediate_size=37,
        projection_dim=hidden,
        num_hidden_layers=layers,
        num_attention_heads=1,
        hidden_act=act,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407 if act == "quick_gelu" else 0,
    )


def _vae(scaling: float) -> AutoencoderKL:
    return _kl(
        latent_channels=4,
        block_out_channels=(32, 32, 32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
        scaling_factor=scaling,
    )


def _unet_sd(
    sample_size: int, *, heads: int | tuple[int, ...], linear: bool, channels: int = 4
) -> UNet2DConditionModel:
    return _unet(
        sample_size=sample_size,
        in_channels=channels,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        cross_attention_dim=32,
        attention_head_dim=heads,
        use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )


def write_folder(pipe: AnyPipeline, folder: Path) -> Path:
    """Save as a diffusers folder of .safetensors files; returns the folder."""
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def write_single_file(
    pipe: AnyPipeline,
    file: Path,
    *,
    marks: Iterable[str] = (),
    without: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Save in the original ("civitai") layout; returns the file.

    `marks`: empty tensors to add, such as "v_pred". `without`: parts to leave out, of "unet", "vae", "text".
    """
    state = single_file_state(pipe.unet, pipe.vae, text_encoders(pipe))
    prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text": ("cond_stage_model.", "conditioner."),
    }
    for part in without:
        state = {name: value for name, value in state.items() if not name.startswith(prefixes[part])}
    state |= {mark: torch.zeros(0) for mark in marks}
    save_file({name: value.contiguous().clone() for name, value in state.items()}, file, dict(metadata or {}))
    return file


def parts(pipe: AnyPipeline) -> Diffusion:
    """The pipeline's components as our own code takes them."""
    return Diffusion(
        unet=pipe.unet,
        vae=pipe.vae,
        text_encoders=tuple(text_encoders(pipe)),
        tokenizers=tuple(part for name in ("tokenizer", "tokenizer_2") if (part := getattr(pipe, name, None))),
        scored=bool(pipe.config.get("requires_aesthetics_score", False)),
        scheduler_config=dict(pipe.scheduler.config),
        zero_empty_negative=bool(pipe.config.get("force_zeros_for_empty_prompt", False)),
    )


def text_encoders(pipe: AnyPipeline) -> list[nn.Module]:
    """The pipeline's text encoders, in order."""
    return [part for name in ("text_encoder", "text_encoder_2") if (part := getattr(pipe, name, None)) is not None]


def single_file_state(unet: Any, vae: nn.Module, encoders: list[nn.Module]) -> State:
    """All tensors under the original names; works on meta tensors, so that real models' headers can be made too."""
    state = unet_state(unet) | _vae_state(vae)
    if len(encoders) == 2:
        state |= _clip_state(encoders[0], "conditioner.embedders.0.transformer.")
        state |= _open_clip_state(encoders[1], "conditioner.embedders.1.model.")
        state["conditioner.embedders.1.model.logit_scale"] = torch.zeros(())
    elif isinstance(encoders[0], CLIPTextModelWithProjection):
        state |= _open_clip_state(encoders[0], "conditioner.embedders.0.model.")
    elif unet.config.use_linear_projection:
        state |= _open_clip_state(encoders[0], "cond_stage_model.model.", spare_layer=True)
    else:
        state |= _clip_state(encoders[0], "cond_stage_model.transformer.")
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["alphas_cumprod"] = torch.ones(1000)  # training leftovers that real files carry
    return state


def unet_state(unet: Any) -> State:
    levels, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    weights: State = unet.state_dict()
    stems = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    attended = {int(name.split(".")[1]) for name in weights if name.startswith("up_blocks") and ".attentions." in name}
    for level in range(levels):
        first_in, first_out = (layers + 1) * level + 1, (layers + 1) * level
        for layer in range(layers + 1):
            stems[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{first_in + layer}.0"
            stems[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{first_in + layer}.1"
            stems[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{first_out + layer}.0"
            stems[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{first_out + layer}.1"
        stems[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first_in + layers}.0.op"
        place = 2 if level in attended else 1
        stems[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first_out + layers}.{place}.conv"
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    state = {}
    for name, value in weights.items():
        stem = max((s for s in stems if name.startswith(s + ".")), key=len)
        rest = name.removeprefix(stem)
        if ".resnets." in stem:
            part = rest.split(".")[1]
            rest = rest.replace(part, inner[part], 1)
        state[f"model.diffusion_model.{stems[stem]}{rest}"] = value
    return state


def _vae_state(vae: Any) -> State:
    levels = len(vae.config.block_out_channels)
    renames = {
        "mid_block.resnets.0.": "mid.block_1.",
        "mid_block.resnets.1.": "mid.block_2.",
        "mid_block.attentions.0.": "mid.attn_1.",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
        "attn_1.group_norm.": "attn_1.norm.",
        "attn_1.to_q.": "attn_1.q.",
        "attn_1.to_k.": "attn_1.k.",
        "attn_1.to_v.": "attn_1.v.",
        "attn_1.to_out.0.": "attn_1.proj_out.",
    }
    for level in range(levels):
        renames |= {
            f"encoder.down_blocks.{level}.resnets.": f"encoder.down.{level}.block.",
            f"encoder.down_blocks.{level}.downsamplers.0.": f"encoder.down.{level}.downsample.",
            f"decoder.up_blocks.{level}.resnets.": f"decoder.up.{levels - 1 - level}.block.",
            f"decoder.up_blocks.{level}.upsamplers.0.": f"decoder.up.{levels - 1 - level}.upsample.",
        }
    state = {}
    for name, value in vae.state_dict().items():
        for ours, original in renames.items():
            name = name.replace(ours, original)
        linear = ".attn_1." in name and value.ndim == 2  # a 1×1 convolution in the original
        state[f"first_stage_model.{name}"] = value[:, :, None, None] if linear else value
    return state


def _clip_state(encoder: nn.Module, prefix: str) -> State:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": v for name, v in encoder.state_dict().items()}


def _open_clip_state(encoder: nn.Module, prefix: str, *, spare_layer: bool = False) -> State:
    renames = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm": "ln_final",
        "encoder.layers.": "transformer.resblocks.",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
        "text_projection.weight": "text_projection",
    }
    weights = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    state: State = {}
    for name, value in weights.items():
        for ours, original in renames.items():
            name = name.replace(ours, original)
        if not re.search(r"\.[qkv]_proj\.", name):
            state[prefix + name] = value.T if name == "text_projection" else value
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers."))
    for layer in range(layers):
        for kind in ("weight", "bias"):  # query, key and value are one joint tensor in the original
            parts = [weights[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    if spare_layer:  # SD 2.x was trained on the layer before the last, and its files carry the last all the same
        last = f"transformer.resblocks.{layers - 1}."
        state |= {
            name.replace(last, f"transformer.resblocks.{layers}."): value
            for name, value in state.items()
            if last in name
        }
        hidden = weights["final_layer_norm.weight"].shape[0]
        state[prefix + "text_projection"] = weights["final_layer_norm.weight"].new_zeros(hidden, hidden)
    return state
