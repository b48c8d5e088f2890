"""Our sampling loop: encode, re-noise, denoise (in tiles), guide, step. Bit-identical to diffusers' text-to-image, img2img
and inpaint pipelines of Stable Diffusion 1.x/2.x and XL when it runs the same steps from the same noise
(tests/pipeline/test_sampling.py, test_inpaint.py).
"""

from __future__ import annotations

import contextlib
import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tilehires.diffusion import align_your_steps
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.inpaint import Inpaint, latent_channels, sees_mask
from tilehires.diffusion.noise import NoiseSource
from tilehires.diffusion.predictor import Predictor, TileConditioning, TimeIds
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.resume import StepFile, can_resume, restore, state_of
from tilehires.geometry import Box, Size
from tilehires.progress import Progress
from tilehires.tiling.engine import TiledDenoiser

OnStep = Callable[[int, int, torch.Tensor], None]
"""(model calls done, model calls in all, the latents B×C×h×w, which it must not change)."""


Before = Callable[[torch.Tensor, Conditioning], tuple[torch.Tensor, Conditioning | None]]
"""(noised latents B×C×h×w, what the first step listens to) → the latents to begin with, and what all steps are to hear."""


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


@dataclass(frozen=True, slots=True)
class Switch:
    """Another model of the same latents for the last part of a pass, with its own conditioning of the same batch."""

    model: Diffusion
    conditioning: Callable[[int], Conditioning]
    at: float
    """Part of the model's noise levels that is done by then, 0 … 1: diffusers' denoising_end and denoising_start."""
    turn: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Entered at the switch and left at the end: brings the one UNet to the device in place of the other."""

    def first(self, timesteps: torch.Tensor, levels: int, order: int) -> int:
        """The first model call that is this model's: whole steps of `order` calls. len(timesteps): none is."""
        cutoff = round(levels - self.at * levels)
        return next((n for n in range(0, len(timesteps), order) if timesteps[n] < cutoff), len(timesteps))


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
    conditioning: Conditioning | Callable[[int], Conditioning],
    latents: torch.Tensor | None,
    *,
    scheduler: Any,
    steps: Steps,
    cfg: float,
    noise: NoiseSource,
    size: Size,
    denoiser: TiledDenoiser | None = None,
    time_ids: TimeIds = "tile",
    inpaint: Inpaint | None = None,
    controls: Sequence[Control] = (),
    tile_conditioning: TileConditioning | None = None,
    place: Box | None = None,
    switch: Switch | None = None,
    before: Before | None = None,
    on_step: OnStep | None = None,
    resume: StepFile | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    name: str = "sampling",
) -> Sample:
    """Run one pass.

    `latents`: B×C×h×w as the VAE's encode gives them (None: from pure noise); `size`: the canvas in pixels, whose cells
    they are. `scheduler`: a fresh one from samplers.make. `denoiser`: cuts the canvas into tiles; None: in one piece.
    `cfg` > 1 guides, which needs a conditioning made with guidance: uncond + Σ w·cfg·(cond − uncond) over the prompts that
    AND joined. The UNet must be on `device`. A canvas of several tiles, and the scheduler's history of it, stay in host
    memory: what is on the device is bounded by the tile.

    `conditioning` may be a function of the step, 0 … steps.run − 1 (a second-order sampler calls the model twice in one);
    `tile_conditioning` gives single tiles their own. Every conditioning of a pass has one batch, and all or none guide.
    `place`: where the latents lie, in cells, when they are one piece of a canvas of `size` (not with a `denoiser`).
    `inpaint`: repaint a part only. `controls`: ControlNets, on the device as well. `switch`: the model
    that takes over, without the `controls` and the `tile_conditioning`, which are the first one's. `before` is asked once,
    when all is ready. `on_step` is told
    after each model call. `resume`: go on from the state this very pass left there, and keep it there; the noise must be
    of (seed, step), as CanvasNoise's. Without it, and for samplers that can't (resume.HISTORY), a pass begins at its
    beginning. `progress` is begun under `name`, advanced once a model call, and may raise Interrupted.
    """
    heard = conditioning if callable(conditioning) else _always(conditioning)
    home = canvas_home(denoiser, device)
    factor, order = model.vae_factor, getattr(scheduler, "order", 1)
    shape = (heard(0).batch, latent_channels(model), size.height // factor, size.width // factor)
    if sees_mask(model) and inpaint is None:
        raise ValueError("this UNet was made for inpainting: it needs an Inpaint")
    _lay_out(scheduler, steps.total, home)
    timesteps = scheduler.timesteps[steps.start * order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(steps.start * order)
    drawn = noise.start(shape if latents is None else tuple(latents.shape)).to(home)
    if latents is None:
        x = drawn * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(latents.to(home, torch.float32), drawn, timesteps[:1].repeat(latents.shape[0]))
    if before:
        x, other = before(x, heard(0))
        heard = heard if other is None else _always(other)
    beside = inpaint.channels.to(home) if inpaint and sees_mask(model) else None
    blended = inpaint if beside is None else None
    predict = Predictor(model, cfg, size, denoiser, time_ids, torch.device(device), beside, tile_conditioning, place)
    extra = set(inspect.signature(scheduler.step).parameters)
    at, first = "", 0
    if resume and not can_resume(scheduler):
        resume = None
    if resume:
        tiles = (denoiser.grid, denoiser.batch) if denoiser else None
        at = _identity(x, inpaint, scheduler, name, steps, cfg, size, time_ids, tiles)
        if (state := resume.load(at)) is not None:
            x, first = restore(state, scheduler, home), state.done
    if progress:
        progress.begin(name, len(timesteps))
        if first:
            progress.note(f"{name} goes on after {first} of {len(timesteps)} model calls.")
            progress.advance(first)
    taken_over = switch.first(timesteps, scheduler.config["num_train_timesteps"], order) if switch else len(timesteps)
    with contextlib.ExitStack() as stack:
        if resume:
            stack.enter_context(resume.kept())
        for number in range(first, len(timesteps)):
            if switch and number == max(first, taken_over):
                stack.enter_context(switch.turn())
                predict = replace(predict, model=switch.model, tile_conditioning=None)
                heard, controls = switch.conditioning, ()
            t, step = timesteps[number], min(number // order, steps.run - 1)
            active = [control for control in controls if control.active(number, len(timesteps))]
            answer = predict(scheduler.scale_model_input(x, t), t, heard(step), step, active)
            arguments: dict[str, Any] = {"eta": 0.0} if "eta" in extra else {}
            if "generator" in extra:
                arguments["generator"] = noise.generator(steps.start * order + number)
            x = scheduler.step(answer, t, x, **arguments, return_dict=False)[0]
            if blended:
                after = timesteps[number + 1 : number + 2]
                x = blended.kept(x, scheduler, drawn, after, 1 - (number + 1) / len(timesteps))
            if resume:
                resume.reached(at, state_of(number + 1, x, scheduler))
            if on_step:
                on_step(number + 1, len(timesteps), x)
            if progress:
                progress.advance()
    return Sample(x.float().cpu(), steps)


def _always(conditioning: Conditioning) -> Callable[[int], Conditioning]:
    return lambda step: conditioning


def canvas_home(denoiser: TiledDenoiser | None, device: torch.device | str) -> torch.device:
    """Where the latent canvas is kept while it is sampled: by the grid alone, so that no budget changes a bit of it."""
    cut = denoiser is not None and len(denoiser.grid.tiles) > 1
    return torch.device("cpu") if cut else torch.device(device)


def _identity(start: torch.Tensor, inpaint: Inpaint | None, scheduler: Any, *rest: Any) -> str:
    """What tells this pass from every other one of its stage: where it starts from, and how it goes."""
    sums = [_crc(tensor) for tensor in (start, *((inpaint.mask, inpaint.original) if inpaint else ()))]
    # diffusers' own notes begin with an underscore, and come in no order.
    config = sorted((key, value) for key, value in scheduler.config.items() if not key.startswith("_"))
    return repr((tuple(start.shape), sums, type(scheduler).__name__, config, rest))


def _crc(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.cpu().contiguous().numpy().data)


def _lay_out(scheduler: Any, total: int, device: torch.device | str) -> None:
    """Set the timesteps. LCM picks from those it was distilled on (50) and refuses more: then it is given as many."""
    if align_your_steps.lay_out(scheduler, total, device):
        return
    distilled = scheduler.config.get("original_inference_steps")
    if distilled and total > distilled:
        scheduler.set_timesteps(total, device=device, original_inference_steps=total)
    else:
        scheduler.set_timesteps(total, device=device)
