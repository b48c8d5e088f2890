"""Sequential redraw: patch after patch is encoded, sampled under its mask, decoded and pasted into the picture.

How Ultimate SD Upscale works, for those who bring its settings (docs/redraw-modes.md); without its 8-bit round trips, its
hidden resampling and its one noise for every tile. The seam fix works the same way, after a pass of any mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tilehires.config.settings import SamplingPass, TiledSettings
from tilehires.diffusion import samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.inpaint import Inpaint, latent_channels, sees_mask
from tilehires.diffusion.noise import CanvasNoise, CutNoise
from tilehires.diffusion.predictor import TimeIds
from tilehires.diffusion.prompts import Conditioning
from tilehires.geometry import Box, Size
from tilehires.progress import Progress
from tilehires.stages import Tools
from tilehires.tiling import vae
from tilehires.tiling.grid import TileGrid
from tilehires.tiling.patches import Easel, Lines, Patch, seam_patches, tile_patches
from tilehires.tiling.planes import Planes


class RedrawSettings(BaseModel):
    """The part of [tiled] that this module uses."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["fused", "linear", "chess"]
    padding: int
    mask_blur: float
    seam_fix: Literal["none", "band", "half", "half+intersections"]
    seam_denoise: float
    seam_width: int
    seam_mask_blur: float
    seam_padding: int

    @classmethod
    def of(cls, tiled: TiledSettings) -> RedrawSettings:
        return cls(
            mode=tiled.redraw,
            padding=tiled.redraw_padding,
            mask_blur=tiled.redraw_mask_blur,
            seam_fix=tiled.seam_fix,
            seam_denoise=tiled.seam_denoise,
            seam_width=tiled.seam_width,
            seam_mask_blur=tiled.seam_mask_blur,
            seam_padding=tiled.seam_padding,
        )


@dataclass(frozen=True)
class Layout:
    """How a pass is cut, in pixels. `tiles`: what is redrawn one by one, () where the `grid`'s are fused; `seams`: what
    is redrawn after them.
    """

    grid: TileGrid
    tiles: tuple[Patch, ...]
    seams: tuple[Patch, ...]

    @property
    def seam_work(self) -> float:
        """Pixels computed by the seam fix ÷ pixels of the canvas."""
        return sum(patch.crop.size.pixels for patch in self.seams) / self.grid.canvas.pixels

    def facts(self, s: RedrawSettings, crop: Box) -> dict[str, Any]:
        """As in the report; boxes inside `crop` of the picture. `tiles` run row by row: what the seam checks look along."""
        boxes = [patch.box for patch in self.tiles] or self.grid.boxes()
        tiles = sorted(boxes, key=lambda box: (box.y0, box.x0))
        made: dict[str, Any] = {
            "redraw": s.mode if self.tiles else "fused",
            "tile": [self.grid.tile.width, self.grid.tile.height],
            "work": round(self.grid.work, 4),
            "tiles": _inside(tiles, crop),
        }
        if self.seams:
            made["seam_fix"] = s.seam_fix
            made["seam_work"] = round(self.seam_work, 4)
            made["seam_tiles"] = _inside([patch.box for patch in self.seams], crop)
        return made


def _inside(boxes: Sequence[Box], crop: Box) -> list[list[int]]:
    shifted = (box.shift(-crop.x0, -crop.y0).clip(crop.size) for box in boxes)
    return [box.as_list() for box in shifted if box.width and box.height]


def layout(s: RedrawSettings, grid: TileGrid, size: Size, *, tile: int, unit: int, multiple: int) -> Layout:
    """Cut a picture of `size`. All in pixels: `grid` over its padded canvas, `tile` the most a crop may measure, `unit` the
    VAE's factor, `multiple` what sides of crops are multiples of.

    A canvas in one piece stays in one piece. Raises ConfigError where paddings and widths don't fit the tile.
    """
    if len(grid.tiles) == 1:
        return Layout(grid, (), ())
    if s.mode == "fused":
        lines, tiles = Lines.of(grid, size), ()
    else:
        easel = Easel(size, grid.canvas, tile, unit, multiple, s.padding, s.mask_blur)
        lines, tiles = tile_patches(easel, s.mode)
        xs, ys = (sorted({p.crop.x0 for p in tiles}), sorted({p.crop.y0 for p in tiles}))
        grid = TileGrid(grid.canvas, tiles[0].crop.size, tuple(xs), tuple(ys))
    seams = Easel(
        size, grid.canvas, tile, unit, multiple, s.seam_padding, s.seam_mask_blur, setting="tiled.seam_padding"
    )
    return Layout(grid, tiles, seam_patches(seams, lines, s.seam_fix, s.seam_width))


@dataclass(frozen=True)
class Painter:
    """What redraws patches: a model that listens to `condition`, step by step, with the pass's `values`.

    `canvas`: the padded picture's size.
    """

    model: Diffusion
    condition: Callable[[int], Conditioning]
    values: SamplingPass
    canvas: Size
    time_ids: TimeIds
    vae_mode: vae.Mode
    tools: Tools
    family: str
    switch: sampling.Switch | None = None
    before: sampling.Before | None = None

    def redraw(
        self,
        pixels: np.ndarray,
        patches: Sequence[Patch],
        denoise: float,
        name: str,
        controls: Sequence[Control] = (),
    ) -> sampling.Steps:
        """Repaint the patches of `pixels` (float32 H×W×3 in [0, 1], changed in place), each on top of those before it.

        `name`: of the pass; its noise comes from it. `controls`: with `pixels` themselves for a hint, so that each patch is
        held to the picture as it is when its turn comes. Where every mask is 0 no bit changes. Returns the steps run for each.
        """
        steps = sampling.exact_steps(self.values.steps, denoise)
        cells = self.canvas.divided(self.model.vae_factor)
        shape = (self.condition(0).batch, latent_channels(self.model), cells.height, cells.width)
        noise = CanvasNoise(self.values.seed, name).start(shape)
        progress = _AsOne(self.tools.progress, name, len(patches))
        with self.tools.bay.on_device(self.model.vae, self.model.unet, *(one.model for one in controls)):
            for number, patch in enumerate(patches):
                place = patch.crop.scale(1 / self.model.vae_factor)
                drawn = CutNoise(noise[(..., *place.slices)], self.values.seed, f"{name}/{number}")
                piece = Planes(pixels, self.canvas)[(..., *patch.crop.slices)]
                new = self._painted(piece, patch, place, drawn, steps, progress, controls)
                _paste(pixels, new, patch)
        return steps

    def _painted(
        self,
        planes: torch.Tensor,
        patch: Patch,
        place: Box,
        drawn: CutNoise,
        steps: sampling.Steps,
        progress: Progress,
        controls: Sequence[Control],
    ) -> np.ndarray:
        """The crop (1×3×h×w in [-1, 1]) with the patch repainted: h×w×3 in [0, 1]."""
        model, device = self.model, self.tools.bay.device
        inpaint = self._inpaint(planes, patch)
        made = sampling.sample(
            model,
            self.condition,
            inpaint.original,
            scheduler=samplers.make(self.values.sampler, self.values.scheduler, model.scheduler_config, self.family),
            steps=steps,
            cfg=self.values.cfg,
            noise=drawn,
            size=self.canvas,
            time_ids=self.time_ids,
            inpaint=inpaint,
            controls=controls,
            place=place,
            switch=self.switch,
            before=self.before,
            device=device,
            progress=progress,
        )
        decoded = vae.decode(model.vae, made.latents, mode=self.vae_mode, device=device)
        return ((decoded[0].numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)

    def _inpaint(self, planes: torch.Tensor, patch: Patch) -> Inpaint:
        """The crop's latents. A cell is repainted where the mask of any of its pixels is a half or more."""
        model, device, factor = self.model, self.tools.bay.device, self.model.vae_factor
        repainted = torch.from_numpy(patch.mask >= 0.5).float()[None, None]
        cells = torch.nn.functional.max_pool2d(repainted, factor)
        original = vae.encode(model.vae, planes, mode=self.vae_mode, device=device)
        if not sees_mask(model):
            return Inpaint(cells, original)
        grey = planes * (1 - repainted)
        return Inpaint(cells, original, vae.encode(model.vae, grey, mode=self.vae_mode, device=device))


class _AsOne:
    """The progress of many equal pieces of work as that of one."""

    def __init__(self, progress: Progress, name: str, pieces: int) -> None:
        self._progress, self._name, self._pieces = progress, name, pieces
        self._begun = False

    def begin(self, what: str, total: int) -> None:
        if not self._begun:
            self._progress.begin(self._name, total * self._pieces)
            self._begun = True

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(steps)

    def note(self, message: str) -> None:
        self._progress.note(message)


def _paste(pixels: np.ndarray, new: np.ndarray, patch: Patch) -> None:
    part = pixels[patch.crop.clip(Size(pixels.shape[1], pixels.shape[0])).slices]
    height, width = part.shape[:2]
    part += patch.mask[:height, :width, None] * (new[:height, :width] - part)
