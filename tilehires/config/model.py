"""Settings of the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tilehires.config.section import Section

Seamless = Literal["none", "x", "y", "both"]


class ModelSettings(Section):
    """Which weights, and how they are read."""

    checkpoint: str = Field(
        "builtin",
        description=(
            '"builtin", a .safetensors file, a diffusers folder, or a hub id (owner/name) already on this machine.'
        ),
    )
    vae: str | None = Field(
        None, description="A VAE to use in place of the checkpoint's own: a .safetensors file or a diffusers folder."
    )
    loras: tuple[str, ...] = Field(
        (),
        description=(
            "LoRAs beside those in the prompt, each a name in lora_folder or a file, with its weight: style:0.8, or "
            "style:0.8:0.5 for text encoders and UNet."
        ),
    )
    lora_folder: str = Field("models/loras", description="Where <lora:name:0.8> in a prompt finds name.safetensors.")
    embedding_folder: str = Field(
        "models/embeddings", description="Textual inversion: a word in a prompt that names a file here stands for it."
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Number format of the models. auto: float16 on CUDA, float32 elsewhere."
    )
    clip_skip: int = Field(
        1, ge=1, le=12, description="Take the text encoder's N-th layer from the end. SDXL ignores it."
    )
    emphasis: Literal["Original", "No norm", "Ignore", "None"] = Field(
        "Original",
        description=(
            "What (word:1.2) does in a prompt. Original: weighs the embeddings and restores their mean; No norm: only "
            "weighs; Ignore: drops the weights; None: takes brackets as text."
        ),
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto", description="What the denoiser predicts. auto: read from the checkpoint."
    )
    seamless: Seamless = Field(
        "none",
        description=(
            "Make pictures that tile without a seam, along x, y or both: the models see each edge go on at the other one. "
            "Sizes are multiples of 64 along it."
        ),
    )
