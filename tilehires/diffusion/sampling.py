"""Our sampling loop: encode, re-noise, denoise (in tiles), guide, step. Bit-identical to diffusers' text-to-image and img2img
pipelines of Stable Diffusion 1.x/2.x and XL when it runs the same steps from the same noise (tests/pipeline/test_sampling.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.noise import NoiseSource
from tilehires.diffusion.prompts import Conditioning
from tilehires.geometry import Box, Size
from tilehires.progress import Progress
from tilehires.tiling.engine import TiledDenoiser, expand

TimeIds = Literal["tile", "global", "crop"]


@dataclass(frozen=True, slots=True)
class Steps:
    """Which part of a schedule runs: `total` steps are laid out, the first `start` of them left out."""

    total: int
    start: int

    @property
    def run(self) -> int:
        return self.total - self.start


@dataclass(frozen=True, slots=True)
class Sample:
    """Latents B×C×h×w, float32, on the CPU, and what was run."""

    latents: torch.Tensor
    steps: Steps


def exact_steps(steps: int, denoise: float, levels: int = 1000) -> Steps:
    """The schedule of which exactly `steps` steps run from noise level `denoise` in (0, 1].

    diffusers' own `strength` rounds, and loses steps (20 at 0.35 gives 19). There can't be more steps than the model has
    noise `levels` below that denoise: then fewer run, which the result says.
    """
    total = max(steps, round(steps / denoise))
    if total <= levels:
        return Steps(total, total - steps)
    return Steps(levels, levels - max(1, min(steps, int(levels * denoise))))


def sample(
    model: Diffusion,
    conditioning: Conditioning,
    latents: torch.Tensor | None,
    *,
    scheduler: Any,
    steps: Steps,
    cfg: float,
    noise: NoiseSource,
    size: Size,
    denoiser: TiledDenoiser | None = None,
    time_ids: TimeIds = "tile",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    name: str = "sampling",
) -> Sample:
    """Run one pass.

    `latents`: B×C×h×w as the VAE's encode gives them (None: from pure noise); `size`: the canvas in pixels, whose cells
    they are. `scheduler`: a fresh one from samplers.make. `denoiser`: cuts the canvas into tiles; None: in one piece.
    `cfg` > 1 guides, which needs a conditioning made with guidance. The UNet must be on `device`. A canvas of several
    tiles, and the scheduler's history of it, stay in host memory: what is on the device is bounded by the tile.
    `progress` is begun under `name`, advanced once a model call, and may raise Interrupted.
    """
    dtype = model.unet.dtype
    factor = model.vae_factor
    home = canvas_home(denoiser, device)
    shape = (conditioning.batch, model.unet.config["in_channels"], size.height // factor, size.width // factor)
    _lay_out(scheduler, steps.total, home)
    order = getattr(scheduler, "order", 1)
    timesteps = scheduler.timesteps[steps.start * order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(steps.start * order)
    drawn = noise.start(shape if latents is None else tuple(latents.shape)).to(home)
    if latents is None:
        x = drawn * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(latents.to(home, torch.float32), drawn, timesteps[:1].repeat(latents.shape[0]))
    extra = set(inspect.signature(scheduler.step).parameters)
    predict = _Predictor(model, conditioning, cfg, size, denoiser, time_ids, torch.device(device), dtype)
    if progress:
        progress.begin(name, len(timesteps))
    for number, t in enumerate(timesteps):
        answer = predict(scheduler.scale_model_input(x, t), t)
        arguments: dict[str, Any] = {"eta": 0.0} if "eta" in extra else {}
        if "generator" in extra:
            arguments["generator"] = noise.generator(steps.start * order + number)
        x = scheduler.step(answer, t, x, **arguments, return_dict=False)[0]
        if progress:
            progress.advance()
    return Sample(x.float().cpu(), steps)


def canvas_home(denoiser: TiledDenoiser | None, device: torch.device | str) -> torch.device:
    """Where the latent canvas is kept while it is sampled: by the grid alone, so that no budget changes a bit of it."""
    cut = denoiser is not None and len(denoiser.grid.tiles) > 1
    return torch.device("cpu") if cut else torch.device(device)


def _lay_out(scheduler: Any, total: int, device: torch.device | str) -> None:
    """Set the timesteps. LCM picks from those it was distilled on (50) and refuses more: then it is given as many."""
    distilled = scheduler.config.get("original_inference_steps")
    if distilled and total > distilled:
        scheduler.set_timesteps(total, device=device, original_inference_steps=total)
    else:
        scheduler.set_timesteps(total, device=device)


@dataclass(frozen=True)
class _Predictor:
    """The guided model output for a canvas."""

    model: Diffusion
    conditioning: Conditioning
    cfg: float
    size: Size
    denoiser: TiledDenoiser | None
    time_ids: TimeIds
    device: torch.device
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        guided = self.conditioning.guided
        inputs = torch.cat([x] * 2) if guided else x
        whole = (Box.of(Size(x.shape[-1], x.shape[-2])),)

        def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
            return self._call(tiles, t, boxes, inputs.shape[0]).float()

        answer = self.denoiser(inputs, call) if self.denoiser else call(inputs, whole)
        if not guided:
            return answer
        unconditional, conditional = answer.chunk(2)
        return unconditional + self.cfg * (conditional - unconditional)

    def _call(self, tiles: torch.Tensor, t: torch.Tensor, boxes: Sequence[Box], batch: int) -> torch.Tensor:
        condition = self.conditioning
        added = None
        if condition.pooled is not None:
            ids = torch.tensor([self._ids(box) for box in boxes], dtype=self.dtype, device=self.device)
            added = {
                "text_embeds": expand(condition.pooled.to(self.device, self.dtype), batch, len(boxes)),
                "time_ids": ids.repeat(batch, 1),
            }
        embeds = expand(condition.embeds.to(self.device, self.dtype), batch, len(boxes))
        unet: Callable[..., Any] = self.model.unet
        return unet(
            tiles.to(self.device, self.dtype),
            t,
            encoder_hidden_states=embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _ids(self, box: Box) -> tuple[int, ...]:
        """SDXL's original size, crop corner and target size, each as (height, width) in pixels."""
        box = box.scale(self.model.vae_factor)
        canvas = (self.size.height, self.size.width)
        if self.time_ids == "global":
            return (*canvas, 0, 0, *canvas)
        if self.time_ids == "crop":
            return (*canvas, box.y0, box.x0, box.height, box.width)
        return (box.height, box.width, 0, 0, box.height, box.width)
