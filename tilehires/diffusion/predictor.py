"""The guided model output for a canvas: one call of the UNet, or one per batch of tiles, each with its own conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control, residuals
from tilehires.diffusion.prompts import Conditioning
from tilehires.geometry import Box, Size
from tilehires.tiling.engine import TiledDenoiser, expand

TimeIds = Literal["tile", "global", "crop"]
SCORE, AVOIDED_SCORE = 6.0, 2.5  # aesthetic scores, as the refiner's makers use it (Podell et al. 2023)
TileConditioning = Callable[[int, Box], Conditioning]
"""(step of the pass, a tile's box in cells) → what that tile listens to. Asked once a tile and step: keep what it encodes."""


@dataclass(frozen=True)
class _Question:
    """What is asked of the UNet in one call of the predictor, beside the latents, whose depth is `depth`."""

    t: torch.Tensor
    condition: Conditioning
    step: int
    controls: Sequence[Control]
    depth: int


@dataclass(frozen=True)
class Predictor:
    """Calls the UNet, on `device`, in its own dtype. Answers are float32, where the canvas is."""

    model: Diffusion
    cfg: float
    size: Size
    denoiser: TiledDenoiser | None
    time_ids: TimeIds
    device: torch.device
    beside: torch.Tensor | None = None
    """B×C'×h×w: channels an inpainting UNet takes beside the latents (Inpaint.channels)."""
    tile_conditioning: TileConditioning | None = None
    place: Box | None = None
    """Where in a larger canvas of `size` these latents lie, in cells; None: they are all of it."""
    _placed: dict[int, tuple[Conditioning, Conditioning]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Conditioning,
        step: int,
        controls: Sequence[Control] = (),
    ) -> torch.Tensor:
        """B×C×h×w: the answer at timestep `t` for latents scaled for the model.

        `step`: of the pass, for tile_conditioning. `controls`: those that take part in this call.
        """
        question = _Question(t, condition, step, controls, x.shape[1])
        if self.beside is not None:
            x = torch.cat([x, self.beside.to(x).expand(x.shape[0], -1, -1, -1)], dim=1)
        if not condition.guided:
            return self._answers(x, question, slice(None))
        # Two at a time, however many AND joined: a call takes no more memory than plain guidance.
        size, entries = condition.batch, len(condition.embeds)
        unconditional, *conditional = [
            answer
            for first in range(0, entries, 2 * size)
            for answer in self._answers(x, question, slice(first, first + 2 * size)).split(size)
        ]
        guided = unconditional
        for weight, answer in zip(condition.weights, conditional, strict=True):
            guided = guided + weight * self.cfg * (answer - unconditional)
        return guided

    def _answers(self, x: torch.Tensor, question: _Question, some: slice) -> torch.Tensor:
        """The UNet's answers to some entries of the conditions, for the whole canvas."""
        condition = question.condition
        inputs = torch.cat([x] * (len(condition.embeds[some]) // condition.batch))
        whole = (self.place or Box.of(Size(x.shape[-1], x.shape[-2])),)

        def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
            return self._call(tiles.to(self.device, self.model.unet.dtype), question, boxes, some).float()

        return self.denoiser(inputs, call) if self.denoiser else call(inputs, whole)

    def _call(self, tiles: torch.Tensor, question: _Question, boxes: Sequence[Box], some: slice) -> torch.Tensor:
        heard = [self._heard(question.condition, question.step, box) for box in boxes]
        conditions: dict[str, Any] = {
            "encoder_hidden_states": beside_each_other(_taken(_equally_long([one.embeds for one in heard]), some)),
            "added_cond_kwargs": None,
        }
        pooled = [one.pooled for one in heard if one.pooled is not None]
        if pooled:
            avoided = question.condition.batch if question.condition.guided else 0
            entries = range(len(question.condition.embeds))[some]
            ids = [self._ids(box, avoided=entry < avoided) for entry in entries for box in boxes]
            conditions["added_cond_kwargs"] = {
                "text_embeds": beside_each_other(_taken(pooled, some)),
                "time_ids": torch.tensor(ids, dtype=tiles.dtype, device=self.device),
            }
        latents, factor = tiles[:, : question.depth], self.model.vae_factor
        added = residuals(question.controls, latents, question.t, boxes, factor, **conditions)
        return self.model.unet(tiles, question.t, **conditions, **added, return_dict=False)[0]

    def _heard(self, condition: Conditioning, step: int, box: Box) -> Conditioning:
        """What a tile listens to, on the device."""
        own = self.tile_conditioning(step, box) if self.tile_conditioning else condition
        if (own.guided, own.batch, own.weights) != (condition.guided, condition.batch, condition.weights):
            raise ValueError("a tile's conditioning must have the batch, the guidance and AND's weights of the pass's")
        # The original is kept beside its copy, so that its id stays its own.
        if id(own) not in self._placed:
            if len(self._placed) > 256:
                self._placed.clear()
            dtype = self.model.unet.dtype
            pooled = None if own.pooled is None else own.pooled.to(self.device, dtype)
            self._placed[id(own)] = (
                own,
                Conditioning(own.embeds.to(self.device, dtype), pooled, own.guided, own.weights),
            )
        return self._placed[id(own)][1]

    def _ids(self, box: Box, *, avoided: bool) -> tuple[float, ...]:
        """SDXL's original size, crop corner and target size, each as (height, width) in pixels.

        For its refiner an aesthetic score in place of the target size; `avoided`: a low one, for the negative prompt.
        """
        size, corner, target = self._sizes(box)
        return (*size, *corner, *((AVOIDED_SCORE if avoided else SCORE,) if self.model.scored else target))

    def _sizes(self, box: Box) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        box = box.scale(self.model.vae_factor)
        canvas = (self.size.height, self.size.width)
        if self.time_ids == "global":
            return canvas, (0, 0), canvas
        if self.time_ids == "crop":
            return canvas, (box.y0, box.x0), (box.height, box.width)
        return (box.height, box.width), (0, 0), (box.height, box.width)


def beside_each_other(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """One value of n×… for each tile as (n·tiles)×…, batch-major, as the engine stacks tiles."""
    if all(value is values[0] for value in values):
        return expand(values[0], values[0].shape[0], len(values))
    return torch.stack(list(values), 1).flatten(0, 1)


def _taken(values: Sequence[torch.Tensor], some: slice) -> Sequence[torch.Tensor]:
    """Those entries of each; of one value that stands in several places, one value again."""
    taken = {id(value): value[some] for value in values}
    return [taken[id(value)] for value in values]


def _equally_long(values: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """n×tokens×width, repeated along the tokens to one length: attention over repeated tokens is attention over them once."""
    lengths = {value.shape[1] for value in values}
    if len(lengths) == 1:
        return values
    longest = math.lcm(*lengths)
    return [value.repeat(1, longest // value.shape[1], 1) for value in values]
