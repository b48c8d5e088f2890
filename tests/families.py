"""Tiny pipelines of every family that `tiled(pipe)` knows, without their text encoders: prompts come as embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

D: Any = diffusers  # its lazy names and narrow annotations mean nothing to pyright


def vae(latent: int, scaling: float = 0.18215, **options) -> Any:
    return D.AutoencoderKL(
        latent_channels=latent,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling,
        **options,
    )


def embeds(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flow(dynamic: bool) -> Any:
    return D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)


@dataclass
class Case:
    """A stock pipeline without its text encoders, and what it is called with."""

    pipe: Any
    prompts: dict[str, Any]
    cells: int = 8  # pixels per cell
    tile: int = 16
    from_image: bool = True

    @property
    def denoiser(self) -> Any:
        return self.pipe.unet if "unet" in self.pipe.components else self.pipe.transformer

    def run(self, width: int = 256, height: int = 192, *, output_type: str = "latent", **options) -> torch.Tensor:
        """The latents, or with `output_type` "pt" the picture in [0, 1]."""
        call: dict[str, Any] = {"width": width, "height": height, "num_inference_steps": 4}
        if self.from_image:
            image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
            call |= {"image": image.to(self.denoiser.dtype), "strength": 0.6}
        if "unet" in self.pipe.components:
            del call["width"], call["height"]
        generator = torch.Generator().manual_seed(4)
        torch.manual_seed(5)  # SD3's ControlNet pipeline encodes its hint with the global generator
        made = self.pipe(**(call | self.prompts | options), generator=generator, output_type=output_type)
        return torch.as_tensor(made.images)


def quiet(make: Callable[[], Case]) -> Case:
    """A case with weights that are always the same ones, and no progress bars."""
    torch.manual_seed(0)
    case = make()
    case.pipe.set_progress_bar_config(disable=True)
    return case


UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def sd15() -> Case:
    unet = D.UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16), cross_attention_dim=32, attention_head_dim=2, **UNET
    )
    pipe = D.StableDiffusionImg2ImgPipeline(
        vae=vae(4), text_encoder=None, tokenizer=None, unet=unet, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, scheduler=D.DDIMScheduler(steps_offset=1, clip_sample=False),
    )  # fmt: skip
    return Case(pipe, {"prompt_embeds": embeds(1, 1, 5, 32), "negative_prompt_embeds": embeds(2, 1, 5, 32)})


def sdxl() -> Case:
    unet = D.UNet2DConditionModel(
        block_out_channels=(8, 16), cross_attention_dim=32, attention_head_dim=2, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=8 * 6 + 32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **UNET,
    )  # fmt: skip
    pipe = D.StableDiffusionXLImg2ImgPipeline(
        vae=vae(4), text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=D.EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    return Case(
        pipe,
        {
            "prompt_embeds": embeds(1, 1, 5, 32),
            "negative_prompt_embeds": embeds(2, 1, 5, 32),
            "pooled_prompt_embeds": embeds(3, 1, 32),
            "negative_pooled_prompt_embeds": embeds(4, 1, 32),
        },
    )


def sd3() -> Case:
    transformer = D.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=32, pooled_projection_dim=64, out_channels=16, pos_embed_max_size=96,
    )  # fmt: skip
    nothing = dict.fromkeys(
        ["text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"]
    )
    pipe = D.StableDiffusion3Img2ImgPipeline(
        transformer=transformer, vae=vae(16, 1.5305, shift_factor=0.0609), scheduler=flow(False), **nothing
    )
    return Case(
        pipe,
        {
            "prompt_embeds": embeds(1, 1, 5, 32),
            "negative_prompt_embeds": embeds(2, 1, 5, 32),
            "pooled_prompt_embeds": embeds(3, 1, 64),
            "negative_pooled_prompt_embeds": embeds(4, 1, 64),
        },
    )


def flux() -> Case:
    transformer = D.FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    nothing = dict.fromkeys(["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"])
    pipe = D.FluxImg2ImgPipeline(
        transformer=transformer, vae=vae(16, 0.3611, shift_factor=0.1159), scheduler=flow(True), **nothing
    )
    return Case(
        pipe, {"prompt_embeds": embeds(1, 1, 5, 32), "pooled_prompt_embeds": embeds(3, 1, 32)}, cells=16, tile=8
    )


def zimage() -> Case:
    transformer = D.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[8, 4, 4], axes_lens=[256, 64, 64],
    )  # fmt: skip
    pipe = D.ZImageImg2ImgPipeline(
        transformer=transformer, vae=vae(16, 0.3611, shift_factor=0.1159), scheduler=flow(True), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return Case(
        pipe,
        {
            "prompt_embeds": [embeds(1, 5, 32)],
            "negative_prompt_embeds": [embeds(2, 7, 32)],
            "guidance_scale": 3.0,
            "prompt": None,
        },
    )


def flux2() -> Case:
    """Flux2 has no image-to-image pipeline but through reference images: from pure noise."""
    transformer = D.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, timestep_guidance_channels=16, guidance_embeds=False, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    autoencoder = D.AutoencoderKLFlux2(latent_channels=4, block_out_channels=(8,) * 4, norm_num_groups=4)
    pipe = D.Flux2KleinPipeline(
        transformer=transformer, vae=autoencoder, scheduler=flow(True), text_encoder=None, tokenizer=None
    )
    return Case(
        pipe,
        {"prompt_embeds": embeds(1, 1, 5, 32), "negative_prompt_embeds": embeds(2, 1, 5, 32)},
        cells=16,
        tile=8,
        from_image=False,
    )


def qwen() -> Case:
    transformer = D.QwenImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    autoencoder = D.AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = D.QwenImageImg2ImgPipeline(
        transformer=transformer, vae=autoencoder, scheduler=flow(True), text_encoder=None, tokenizer=None
    )
    prompts = {
        "prompt_embeds": embeds(1, 1, 5, 32),
        "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
        "negative_prompt_embeds": embeds(2, 1, 7, 32),
        "negative_prompt_embeds_mask": torch.ones(1, 7, dtype=torch.long),
        "true_cfg_scale": 3.0,
    }
    return Case(pipe, prompts, cells=16, tile=8)
