"""Settings of the first pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tilehires.config.section import Section

Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0.0, le=100.0)]
Seed = Annotated[int, Field(ge=-1, le=2**64 - 1)]  # other tools write seeds of 64 bits


class GenerateSettings(Section):
    """The first pass. For an image that already exists these say how it was made: later passes inherit from here."""

    prompt: str = Field("", description="What the image shows. An image's own metadata fills it in.")
    negative_prompt: str = Field("", description="What it should not show.")
    seed: Seed = Field(
        -1,
        description=(
            "Seed of all noise. -1: derived from the input's bytes, or from the prompt, so that a rerun gives the same image."
        ),
    )
    width: int = Field(
        0, ge=0, le=8192, description="Width of the first pass in pixels; 0: the model's native size. For prompts only."
    )
    height: int = Field(0, ge=0, le=8192, description="Height of the first pass; 0: the model's native size.")
    count: int = Field(
        1, ge=1, le=10_000, description="Pictures made from a prompt, each with the next seed. For prompts only."
    )
    steps: Steps = Field(20, description="Sampling steps.")
    cfg: Guidance = Field(7.0, description="Classifier-free guidance scale; 1 turns guidance off and halves the work.")
    sampler: str = Field("DPM++ 2M", description="Sampler, by AUTOMATIC1111's name.")
    scheduler: str = Field(
        "Automatic",
        description=(
            "Noise schedule: Automatic, Uniform, Karras, Exponential, Beta, SGM Uniform, Simple, DDIM, Align Your Steps."
        ),
    )
    refiner: str = Field("", description="A second checkpoint for the last steps: SDXL's refiner; empty: none.")
    switch_at: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.8, description="Where the refiner takes over, as a part of the noise schedule."
    )
