"""The ControlNets of a pass: found, loaded, and given the pass's own input picture as their hint (the "tile" kind's use)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from tilehires.config.control import ControlNetUse, Module
from tilehires.config.settings import SamplingPass
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.control import BLANK, Control
from tilehires.diffusion.controlnets import ControlNetFile, inspect
from tilehires.geometry import OPEN, Size, Wrap
from tilehires.upscalers.pillow import resample


def found(values: SamplingPass, checkpoint: Checkpoint) -> tuple[ControlNetFile, ...]:
    """The files of a pass's ControlNets. Raises MissingError for one that isn't there or doesn't fit the checkpoint."""
    return tuple(inspect(use.path, checkpoint) for use in values.controlnets)


def controls(
    values: SamplingPass, checkpoint: Checkpoint, bay: Bay, picture: np.ndarray, size: Size, wrap: Wrap = OPEN
) -> tuple[Control, ...]:
    """A pass's ControlNets, in host memory. Their hint is `picture`, HWC float32 in [0, 1], at `size`, not copied."""
    if not values.controlnets:
        return ()
    # Of another size where the pass's own upscaler works on latents.
    hint = picture if picture.shape[:2] == (size.height, size.width) else resample(picture, size)
    files, planes = found(values, checkpoint), torch.from_numpy(hint).permute(2, 0, 1)[None]
    return at_work(values.controlnets, files, bay, planes, wrap=wrap)


def at_work(
    uses: Sequence[ControlNetUse],
    files: Sequence[ControlNetFile],
    bay: Bay,
    hint: torch.Tensor,
    masks: torch.Tensor | None = None,
    wrap: Wrap = OPEN,
) -> tuple[Control, ...]:
    """ControlNets, in host memory, each with what its module makes of one hint, as in Control.

    `masks`: B×1×H×W, for the module "inpaint": what of the hint is to be repainted, where 0.5 or more.
    """
    return tuple(
        Control(model, _seen(hint, use.module, masks), use.scale, use.start, use.end, wrap)
        for model, use in zip(bay.controlnets(files), uses, strict=True)
    )


def _seen(hint: torch.Tensor, module: Module, masks: torch.Tensor | None) -> torch.Tensor:
    if module == "inpaint" and masks is not None:
        return torch.where(masks >= 0.5, BLANK, hint)
    return torch.stack([_edges(one) for one in hint]) if module == "canny" else hint


def _edges(hint: torch.Tensor) -> torch.Tensor:
    """White edges on black, 3×H×W; the thresholds are those that canny ControlNets were trained around."""
    levels = (hint.clip(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    grey = cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_RGB2GRAY)
    edges = np.asarray(cv2.Canny(grey, 100, 200), np.float32) / 255
    return torch.from_numpy(edges)[None].repeat(3, 1, 1)
