"""ControlNets: called inside the tile, on the tile's own part of the hint, so that their memory is bounded as the UNet's is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tilehires.geometry import OPEN, Box, Wrap

BLANK = -1.0
"""In a hint: what an inpainting ControlNet gets where the picture is to be made (as they were trained)."""


@dataclass(frozen=True)
class Control:
    """One ControlNet at work in a pass (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models").

    `model`: diffusers' ControlNetModel, on the pass's device. `hint`: B×3×H×W around [0, 1] (-1 where an inpainting
    ControlNet is to see nothing), the canvas in pixels, on the CPU, with a batch of 1 or the pass's; where it ends before
    the canvas it is mirrored, and along the axes of `wrap` it goes on at its other side. `start`, `end`: the part of the
    pass's steps in which it takes part, as fractions.
    """

    model: Any
    hint: torch.Tensor
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    wrap: Wrap = OPEN

    def active(self, number: int, total: int) -> bool:
        """Whether it takes part in call `number` of `total`: in those that lie in its part whole, as in diffusers."""
        return number / total >= self.start and (number + 1) / total <= self.end

    def part(self, box: Box) -> torch.Tensor:
        """B×3×h×w in [0, 1]: a box of the canvas, in pixels."""
        rows, columns = (
            torch.arange(start, end) % length if ring else _mirrored(start, end, length)
            for start, end, length, ring in zip(
                (box.y0, box.x0), (box.y1, box.x1), self.hint.shape[-2:], (self.wrap.y, self.wrap.x), strict=True
            )
        )
        top, left = int(rows.min()), int(columns.min())
        window = self.hint[..., top : int(rows.max()) + 1, left : int(columns.max()) + 1]
        part = window[..., rows - top, :][..., columns - left]
        return torch.where(part == BLANK, part, part.clip(0, 1))


def _mirrored(start: int, end: int, length: int) -> torch.Tensor:
    """Indices from `start` to `end`, those beyond `length` reflected, with the last one twice."""
    places = torch.arange(start, end)
    return torch.where(places < length, places, 2 * length - 1 - places).clip(0, length - 1)


def residuals(
    controls: Sequence[Control],
    tiles: torch.Tensor,
    t: torch.Tensor,
    boxes: Sequence[Box],
    factor: int,
    **conditions: Any,
) -> dict[str, Any]:
    """What the ControlNets add to the UNet's own skip connections, as its arguments; empty without any.

    `tiles`: (B·n)×C×h×w, batch-major, on the device, in the dtype of the models; `boxes`: those n tiles' in cells;
    `factor`: pixels to a cell. `conditions`: what the UNet is called with beside them.
    """
    down: list[torch.Tensor] = []
    middle: torch.Tensor | None = None
    for control in controls:
        parts = torch.stack([control.part(box.scale(factor)) for box in boxes], 1).flatten(0, 1)
        hint = parts.repeat(len(tiles) // len(parts), 1, 1, 1).to(tiles)
        more, last = control.model(
            tiles, t, controlnet_cond=hint, conditioning_scale=control.scale, return_dict=False, **conditions
        )
        if middle is None:
            down, middle = list(more), last
        else:
            down, middle = [a + b for a, b in zip(down, more, strict=True)], middle + last
    if middle is None:
        return {}
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
