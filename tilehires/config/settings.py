"""The settings: their names, types, defaults, ranges and help. One source for the CLI, the docs table and the presets.

Frozen pydantic models; an unknown key is an error. `None` means "as the pass before": hires inherits from generate,
tiled from hires. docs/settings.md is made from this file (tools/make_docs.py) and a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tilehires.config.checks import CheckSettings
from tilehires.config.control import ControlNetUse, Fractions, Names, Scales, uses
from tilehires.config.detail import DetailSettings
from tilehires.config.generate import GenerateSettings, Guidance, Seed
from tilehires.config.model import ModelSettings
from tilehires.config.on_finish import OnFinish
from tilehires.config.section import Section

Denoise = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Amount = Annotated[str, Field(pattern=r"(?i)^\s*\d+(\.\d+)?\s*[KMGT]?(i?B)?\s*$")]
Budget = Literal["auto"] | Amount


class PassSettings(Section):
    """What hires and tiled have in common."""

    prompt: str | None = Field(None, description="Prompt of this pass. Not set: as the pass before.")
    negative_prompt: str | None = Field(None, description="Negative prompt of this pass. Not set: as the pass before.")
    prompt_add: str = Field("", description="Text put after the prompt in this pass, such as quality tags.")
    checkpoint: str | None = Field(
        None, description="Another checkpoint for this pass, of any family. Not set: as the pass before."
    )
    vae: str | None = Field(
        None,
        description="Another VAE for this pass. Not set: as the pass before, or the VAE of this pass's checkpoint.",
    )
    loras: tuple[str, ...] | None = Field(
        None, description="LoRAs of this pass, as model.loras; empty for none. Not set: as the pass before."
    )
    refiner: str | None = Field(
        None,
        description="A second checkpoint for the last steps: SDXL's refiner; empty: none. Not set: as the pass before.",
    )
    switch_at: Share | None = Field(
        None, description="Where the refiner takes over, as a part of the noise schedule. Not set: as the pass before."
    )
    cfg: Guidance | None = Field(None, description="Guidance scale of this pass. Not set: as the pass before.")
    seed: Seed | None = Field(None, description="Seed of this pass. Not set: as the pass before.")
    sampler: str | None = Field(None, description="Sampler of this pass. Not set: as the pass before.")
    scheduler: str | None = Field(None, description="Schedule of this pass. Not set: as the pass before.")
    controlnet: Names | None = Field(
        None,
        description=(
            "ControlNets that hold this pass to its own input picture (the tile kind): .safetensors files or diffusers "
            "folders. Not set: as the pass before; empty: none."
        ),
    )
    controlnet_scale: Scales | None = Field(
        None, description="How strongly they hold: a number, or one for each. Not set: as the pass before, else 1."
    )
    controlnet_start: Fractions | None = Field(
        None, description="From which part of the steps on, 0 to 1. Not set: as the pass before, else 0."
    )
    controlnet_end: Fractions | None = Field(
        None, description="Up to which part of the steps, 0 to 1. Not set: as the pass before, else 1."
    )


class HiresSettings(PassSettings):
    """Size of the output, and the first upscale (up to 2x) with its second pass."""

    scale: float = Field(
        2.0, gt=0.0, le=64.0, description="Output size ÷ input size. Beyond 2 the rest is done by tiled steps."
    )
    resize_x: int = Field(
        0, ge=0, le=65536, description="Output width; with one of the two given, the other follows the aspect."
    )
    resize_y: int = Field(
        0, ge=0, le=65536, description="Output height; with both given, the image covers the size and is cropped."
    )
    max_side: int = Field(0, ge=0, le=65536, description="Upper bound of the longer side, aspect kept; 0: none.")
    max_megapixels: float = Field(
        0.0, ge=0.0, description="Upper bound of the area in 10^6 pixels, aspect kept; 0: none."
    )
    upscaler: str = Field(
        "builtin",
        description=(
            '"builtin", a Pillow kernel (Nearest, Bilinear, Bicubic, Lanczos, …), a latent mode '
            "(Latent, …), or a model file."
        ),
    )
    denoise: Denoise = Field(0.35, description="How much is repainted: 0 upscales only, 1 repaints all.")
    steps: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Steps actually run, whatever the denoise; 0: as generate.steps."
    )
    keep_before: bool = Field(
        False,
        description="Of a picture made from a prompt, write the first pass beside the output too: fox.before.png.",
    )
    lock: Share | None = Field(
        None,
        description=(
            "Low-frequency lock: how much of the broad tones is taken from the picture before the pass, so that skies and walls "
            "don't drift. Not set: 1 up to denoise 0.5, falling to 0 at 0.75, where a repaint may change colours."
        ),
    )
    max_canvas: int = Field(
        2048, ge=256, le=65536, description="Sample in tiles when a side of the canvas is longer than this many pixels."
    )


class TiledSettings(PassSettings):
    """Steps beyond 2x, and the tile grid of every pass."""

    upscaler: str | None = Field(
        None, description="Upscaler of the tiled steps. Not set: as hires (a latent mode becomes Lanczos)."
    )
    denoise: Denoise | None = Field(None, description="Denoise of the tiled steps. Not set: as hires.")
    steps: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Steps of a tiled step. Not set: as hires."
    )
    lock: Share | None = Field(
        None, description="Low-frequency lock of the tiled steps. Not set: as hires.lock; both not set: by the denoise."
    )
    tile_min: int = Field(
        0, ge=0, le=8192, description="Smallest tile the grid may choose, in pixels; 0: by the model family."
    )
    tile_max: int = Field(
        0, ge=0, le=8192, description="Largest tile the grid may choose, in pixels; 0: by the model family."
    )
    overlap: int = Field(64, ge=0, le=2048, description="Least overlap of neighbouring tiles, in pixels.")
    redraw: Literal["fused", "linear", "chess"] = Field(
        "fused",
        description=(
            "fused: all tiles at every step on one canvas. linear, chess: tile after tile, as Ultimate SD Upscale does "
            "(docs/redraw-modes.md)."
        ),
    )
    redraw_padding: int = Field(
        32, ge=0, le=2048, description="linear, chess: pixels a tile sees beyond itself; within tile_max."
    )
    redraw_mask_blur: float = Field(
        8.0, ge=0, le=512, description="linear, chess: spread of the mask's edge in pixels, as far as the padding goes."
    )
    seam_fix: Literal["none", "band", "half", "half+intersections"] = Field(
        "none",
        description="Repaint where tiles meet, after the pass: bands, tiles half a tile on, and their crossings.",
    )
    seam_denoise: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.35, description="Denoise of the seam fix.")
    seam_width: int = Field(64, ge=2, le=2048, description="band: pixels across a seam that are repainted.")
    seam_mask_blur: float = Field(
        4.0, ge=0, le=512, description="Seam fix: spread in pixels of the mask's edge between the pieces of a band."
    )
    seam_padding: int = Field(16, ge=0, le=2048, description="Seam fix: pixels a piece sees beyond itself.")
    time_ids: Literal["tile", "global", "crop"] = Field(
        "tile", description="SDXL's size conditions: of the tile, the canvas, or the crop."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.tile_min and self.tile_max and self.tile_min > self.tile_max:
            raise ValueError(f"tile_min = {self.tile_min} is more than tile_max = {self.tile_max}")
        return self


class MemorySettings(Section):
    """Budgets. They change batch sizes and offloading, never the picture's geometry."""

    vram: Budget = Field("auto", description='Device memory to use, such as "8GB"; auto: what the card has.')
    ram: Budget = Field("auto", description='Host memory to use, such as "16GB"; auto: half of what the machine has.')
    tile_batch: int = Field(
        0, ge=0, le=64, description="Tiles that go through the model at once, and regions at most; 0: the plan decides."
    )
    upscaler_tile: int = Field(512, ge=64, le=4096, description="Largest input tile of a model upscaler, in pixels.")
    vae: Literal["auto", "whole", "tiled", "estimated"] = Field(
        "auto",
        description=(
            "How pictures go through the VAE. whole: in one piece. tiled: in tiles or strips, exact, in bounded device "
            "memory. estimated: in bounded host memory too; the report says how far off. auto: whole up to "
            "vae_whole_max, then tiled while that fits memory.ram."
        ),
    )
    vae_whole_max: int = Field(
        1024, ge=64, le=65536, description="Longest side in pixels that goes through the VAE in one piece under auto."
    )


class RunSettings(Section):
    """The batch: devices, files, bounds."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    format: Literal["png", "jpeg", "webp", "tiff", "avif"] = Field("png", description="Format of the output files.")
    quality: int = Field(95, ge=1, le=100, description="JPEG, WebP and AVIF quality; at 100 the last two are lossless.")
    bits: Annotated[Literal["auto", "8", "16"], BeforeValidator(str)] = Field(
        "auto", description="Bits per channel of PNG and TIFF; auto: as the input."
    )
    max_pixels: int = Field(400_000_000, ge=1, description="Refuse inputs, and outputs, of more pixels than this.")
    decode_isolated: bool = Field(
        True, description="Decode images in a process of its own: a file that crashes a decoder costs one image."
    )
    decode_seconds: int = Field(
        300, ge=1, le=86400, description="Give an image up that takes longer to decode (isolated decoding)."
    )
    cache_limit: Amount = Field("20GB", description="Disk the stage cache may take; the oldest entries go first.")
    local_folder: str = Field(
        "",
        description="Where this machine keeps its half of runs into object stores; empty: in the user's cache folder.",
    )
    resolve_links: bool = Field(False, description="Follow symbolic links in the input folder, which are else skipped.")
    deterministic: bool = Field(
        False, description="torch's deterministic algorithms, and the numeric environment in the fingerprints."
    )
    strict: bool = Field(False, description="Exit 4 when an image is flagged.")
    generate: bool = Field(
        False, description="Prompts without an image (fox.txt, fox.toml) are jobs too: the picture is made from them."
    )
    first_pass_only: bool = Field(
        False, description="Stop after the first pass of prompts, to look at previews; images are left alone."
    )
    limit: int = Field(0, ge=0, description="Do only the first N images; 0: all.")
    overlap: bool = Field(
        True, description="Decode the next image, and check and write the last one, while one is computed."
    )
    image_time_limit: float = Field(
        0, ge=0, le=1e7, description="Give an image up after that many seconds and go on with the next; 0: never."
    )
    on_finish: OnFinish = Field(
        "",
        description=(
            "At the end of the run, however it ended, start this program, its words as a list or in one text (no shell), "
            "with the summary as JSON on its standard input; an http:// or https:// address gets it as a POST. Empty: nothing."
        ),
    )
    on_finish_seconds: float = Field(
        60, gt=0, le=86400, description="How long that may take; then it is ended. It never changes the exit code."
    )
    watch_settle: float = Field(
        2.0,
        gt=0,
        le=3600,
        description="With --watch, a file is taken when size and time have stayed the same for that many seconds.",
    )
    step_checkpoint: int = Field(
        60,
        ge=-1,
        le=86400,
        description=(
            "Inside a pass, keep its state every that many seconds, so that a killed run goes on inside the pass; "
            "0: after every model call, -1: never."
        ),
    )
    metadata: bool = Field(True, description="Write settings into the outputs, and keep the input's own metadata.")


class Settings(Section):
    """Everything that shapes a run; sections as in the TOML files."""

    model: ModelSettings = ModelSettings()  # pyright: ignore[reportCallIssue]
    generate: GenerateSettings = GenerateSettings()  # pyright: ignore[reportCallIssue]
    hires: HiresSettings = HiresSettings()  # pyright: ignore[reportCallIssue]
    tiled: TiledSettings = TiledSettings()  # pyright: ignore[reportCallIssue]
    detail: DetailSettings = DetailSettings()  # pyright: ignore[reportCallIssue]
    check: CheckSettings = CheckSettings()  # pyright: ignore[reportCallIssue]
    memory: MemorySettings = MemorySettings()  # pyright: ignore[reportCallIssue]
    run: RunSettings = RunSettings()  # pyright: ignore[reportCallIssue]


class SamplingPass(Section):
    """The values one sampling pass really uses, inheritance resolved."""

    prompt: str
    negative_prompt: str
    loras: tuple[str, ...]
    checkpoint: str | None
    """Another one than the run's."""
    refiner: str | None
    switch_at: float
    vae: str | None
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    upscaler: str
    lock: float
    controlnets: tuple[ControlNetUse, ...]


def generate_pass(settings: Settings, seed: int) -> SamplingPass:
    """The first pass, of a prompt; `seed` is the picture's own."""
    g = settings.generate
    return SamplingPass(
        prompt=g.prompt,
        negative_prompt=g.negative_prompt,
        loras=settings.model.loras,
        checkpoint=None,
        refiner=g.refiner or None,
        switch_at=g.switch_at,
        vae=settings.model.vae,
        seed=seed,
        steps=g.steps,
        cfg=g.cfg,
        sampler=g.sampler,
        scheduler=g.scheduler,
        denoise=1.0,
        upscaler="Lanczos",
        lock=0.0,
        controlnets=(),
    )


def hires_pass(settings: Settings, seed: int) -> SamplingPass:
    """The hires pass; `seed` is the image's, already resolved (not −1)."""
    g, h = settings.generate, settings.hires
    return SamplingPass(
        prompt=_joined(g.prompt if h.prompt is None else h.prompt, h.prompt_add),
        negative_prompt=g.negative_prompt if h.negative_prompt is None else h.negative_prompt,
        loras=settings.model.loras if h.loras is None else h.loras,
        checkpoint=h.checkpoint,
        refiner=_refiner(h, g.refiner),
        switch_at=g.switch_at if h.switch_at is None else h.switch_at,
        vae=h.vae or (None if h.checkpoint else settings.model.vae),
        seed=seed if h.seed in (None, -1) else h.seed,
        steps=h.steps or g.steps,
        cfg=g.cfg if h.cfg is None else h.cfg,
        sampler=h.sampler or g.sampler,
        scheduler=h.scheduler or g.scheduler,
        denoise=h.denoise,
        upscaler=h.upscaler,
        lock=default_lock(h.denoise) if h.lock is None else h.lock,
        controlnets=_controlnets(h),
    )


def tiled_pass(settings: Settings, seed: int) -> SamplingPass:
    """A tiled step; whatever it leaves open is as in hires."""
    h, t = hires_pass(settings, seed), settings.tiled
    denoise = h.denoise if t.denoise is None else t.denoise
    lock = settings.hires.lock if t.lock is None else t.lock
    latent = h.upscaler.lower().startswith("latent")
    return SamplingPass(
        prompt=_joined(h.prompt if t.prompt is None else t.prompt, t.prompt_add),
        negative_prompt=h.negative_prompt if t.negative_prompt is None else t.negative_prompt,
        loras=h.loras if t.loras is None else t.loras,
        checkpoint=t.checkpoint or h.checkpoint,
        refiner=_refiner(t, h.refiner),
        switch_at=h.switch_at if t.switch_at is None else t.switch_at,
        vae=t.vae or (None if t.checkpoint else h.vae),
        seed=h.seed if t.seed in (None, -1) else t.seed,
        steps=t.steps or h.steps,
        cfg=h.cfg if t.cfg is None else t.cfg,
        sampler=t.sampler or h.sampler,
        scheduler=t.scheduler or h.scheduler,
        denoise=denoise,
        upscaler=t.upscaler or ("Lanczos" if latent else h.upscaler),
        lock=default_lock(denoise) if lock is None else lock,
        controlnets=_controlnets(settings.tiled, settings.hires),
    )


def _refiner(own: PassSettings, before: str | None) -> str | None:
    """A pass with a checkpoint of its own doesn't take over the refiner of the pass before, which may not go with it."""
    return (before if own.refiner is None and not own.checkpoint else own.refiner) or None


def default_lock(denoise: float) -> float:
    """Full while a pass refines; none where it repaints, and people expect new colours (A1111's latent upscalers at 0.7)."""
    return min(1.0, max(0.0, (0.75 - denoise) / 0.25))


def _controlnets(*passes: PassSettings) -> tuple[ControlNetUse, ...]:
    """Those of the first pass, which takes what it leaves open from the next."""

    def said(name: str, otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
        return next((value for one in passes if (value := getattr(one, name)) is not None), otherwise)

    return uses(
        said("controlnet", ()),
        said("controlnet_scale", (1.0,)),
        said("controlnet_start", (0.0,)),
        said("controlnet_end", (1.0,)),
    )


def prompt_settings(settings: Settings, step: str) -> tuple[str, ...]:
    """The settings that make up the prompt of the pass `step` ("generate", "hires", "tiled.1", …), by their dotted names."""
    if step == "generate":
        return ("generate.prompt",)
    hires = ("generate.prompt" if settings.hires.prompt is None else "hires.prompt", "hires.prompt_add")
    if step == "hires":
        return hires
    return (*(hires if settings.tiled.prompt is None else ("tiled.prompt",)), "tiled.prompt_add")


def _joined(prompt: str, addition: str) -> str:
    return ", ".join(part for part in (prompt, addition) if part)
