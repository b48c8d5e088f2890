"""[[detail]]: detect-and-inpaint passes, one table each, in the order in which they are run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tilehires.config.control import ControlNetUse, Fractions, Modules, Names, Scales, uses
from tilehires.config.section import Section


class DetailPass(Section):
    """One detect-and-inpaint pass. What isn't given is as the detector's TOML says, then as stands here."""

    detector: str = Field(
        description="A name (detectors/NAME.toml), a detector's TOML, or a weights file.", min_length=1
    )
    at: Literal["hires", "final"] = Field(
        "hires",
        description="After the hires step, before faces outgrow the model's native size; or on the final image.",
    )
    detect_on: Literal["input", "current"] = Field(
        "input", description="Look for things in the input image, or in the image as it is when the pass begins."
    )
    confidence: float = Field(0.3, ge=0, le=1, description="Least score of a detection.")
    filter: Literal["area", "confidence"] = Field("area", description="What `largest` counts by.")
    largest: int = Field(0, ge=0, le=1000, description="Repair only the first so many by `filter`; 0: all.")
    min_ratio: float = Field(0.0, ge=0, le=1, description="Least area of a box ÷ area of the image.")
    max_ratio: float = Field(1.0, ge=0, le=1, description="Largest area of a box ÷ area of the image.")
    drop_size: int = Field(10, ge=1, le=4096, description="A box with a side below this many pixels is left out.")
    dilate: int = Field(4, ge=-128, le=128, description="Grow the mask by so many pixels; below 0: shrink it.")
    x_offset: int = Field(0, ge=-200, le=200, description="Shift the mask to the right, in pixels.")
    y_offset: int = Field(0, ge=-200, le=200, description="Shift the mask upwards, in pixels.")
    merge: Literal["none", "merge", "invert"] = Field(
        "none", description="Repair all masks of the pass as one; invert: everything but them."
    )
    mask_blur: int = Field(4, ge=0, le=64, description="Sigma of the mask's soft edge, in pixels.")
    padding: int = Field(32, ge=0, le=256, description="Least surroundings of a box that the model sees, in pixels.")
    only_masked: bool = Field(
        True,
        description="Work on a crop around each region; false: on the whole picture at its own size, in tiles if need be.",
    )
    crop_factor: float = Field(
        3.0, ge=1, le=10, description="Surroundings that the model sees: side of the crop ÷ side of the box."
    )
    width: int = Field(0, ge=0, le=4096, description="Width at which a crop is repaired; 0: the model's native size.")
    height: int = Field(0, ge=0, le=4096, description="Height at which a crop is repaired; 0: the model's native size.")
    match_size: Literal["off", "strict", "free"] = Field(
        "off", description="Repair at the crop's own aspect: strict: SDXL's trained sizes, free: any; off: a square."
    )
    guide_size: int = Field(
        0,
        ge=0,
        le=4096,
        description="Repair at the crop's own aspect, its shorter side this long; 0: at the size that match_size says.",
    )
    max_size: int = Field(1024, ge=64, le=4096, description="Longer side of a crop under guide_size, at most.")
    large: Literal["leave", "tile"] = Field(
        "leave",
        description="What is already larger than the model's native size: leave it alone, or repair it in tiles.",
    )
    sort: Literal["none", "left_to_right", "centre_to_edge", "large_to_small"] = Field(
        "none", description="In which order regions are repaired, and prompts are given out."
    )
    prompt: str = Field(
        "",
        description=(
            "Prompt of the regions; empty: the main prompt. [SEP] splits it region by region, [PROMPT] stands for the main "
            "prompt, [SKIP] alone leaves a region out."
        ),
    )
    negative_prompt: str = Field("", description="Negative prompt, in the same syntax.")
    denoise: float = Field(0.4, ge=0, le=1, description="How much of a region is repainted.")
    dynamic_denoise: float = Field(
        0.0,
        ge=-10,
        le=10,
        description="Power p: denoise × (1 − box ÷ image)^p, so that small things change more or less.",
    )
    noise_mask_feather: int = Field(
        0,
        ge=0,
        le=100,
        description=(
            "Sigma of the mask's edge while sampling, in pixels, where what is less covered is repainted in later steps only "
            "(differential diffusion); 0: mask_blur's edge, mixed in at every step."
        ),
    )
    cycle: int = Field(
        1, ge=1, le=10, description="How often the regions are repaired, each time on what came out before."
    )
    noise_multiplier: float = Field(1.0, ge=0.5, le=1.5, description="Factor on the noise that a region begins with.")
    same_seed: bool = Field(False, description="All regions have the image's seed; else seed + the region's number.")
    steps: int | None = Field(None, ge=1, le=1000, description="Steps actually run. Not set: as hires.")
    cfg: float | None = Field(None, ge=0, le=100, description="Guidance scale. Not set: as hires.")
    sampler: str | None = Field(None, description="Sampler. Not set: as hires.")
    scheduler: str | None = Field(None, description="Schedule. Not set: as hires.")
    clip_skip: int | None = Field(None, ge=1, le=12, description="As model.clip_skip. Not set: as there.")
    checkpoint: str | None = Field(
        None,
        description="Another checkpoint for this pass, also one made for inpainting. Not set: model.checkpoint.",
    )
    vae: str | None = Field(
        None, description="Another VAE for this pass. Not set: model.vae, or the VAE of this pass's checkpoint."
    )
    controlnet: Names = Field(
        (),
        description=(
            "ControlNets that hold a region to its own crop (the tile kind): .safetensors files or diffusers folders."
        ),
    )
    controlnet_module: Modules = Field(
        ("none",),
        description=(
            "What a ControlNet sees of the crop, one for all or one each: none: the crop (tile kind); inpaint: the crop with "
            "what is repainted blanked out; canny: its edges."
        ),
    )
    controlnet_scale: Scales = Field((1.0,), description="How strongly they hold: a number, or one for each.")
    controlnet_start: Fractions = Field((0.0,), description="From which part of the steps on, 0 to 1.")
    controlnet_end: Fractions = Field((1.0,), description="Up to which part of the steps, 0 to 1.")

    restore_face: str | None = Field(
        None,
        description="A face restoration model (GFPGAN, CodeFormer, RestoreFormer) for the faces of repaired regions.",
    )
    restore_visibility: float = Field(
        1.0, ge=0, le=1, description="How much of a restored face is seen over what was repainted."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio = {self.min_ratio} is more than max_ratio = {self.max_ratio}")
        if bool(self.width) != bool(self.height):
            raise ValueError("width and height are given together, or neither")
        if self.guide_size > self.max_size:
            raise ValueError(f"guide_size = {self.guide_size} is more than max_size = {self.max_size}")
        return self

    @property
    def controlnets(self) -> tuple[ControlNetUse, ...]:
        return uses(
            self.controlnet,
            self.controlnet_scale,
            self.controlnet_start,
            self.controlnet_end,
            self.controlnet_module,
        )


def _from_name(value: Any) -> Any:
    """A detector's name alone is a pass with that detector."""
    return {"detector": value.strip()} if isinstance(value, str) else value


def _without_none(value: Any) -> Any:
    """--detail none turns the passes off."""
    if isinstance(value, list | tuple) and [v for v in value if isinstance(v, str)] == ["none"] and len(value) == 1:
        return ()
    return value


class DetailSettings(Section):
    """Detect-and-inpaint passes: `[[detail]]`, once for each."""

    passes: Annotated[
        tuple[Annotated[DetailPass, BeforeValidator(_from_name)], ...], BeforeValidator(_without_none)
    ] = Field((), description="The passes, in order; detectors by name, or tables of their parameters.", max_length=20)
