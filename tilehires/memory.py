"""The planner: how many tiles go through the model at once, and what that will take.

Pure arithmetic: the plan follows from (device, declared budget, size, settings), never from what happens to be free, so that the
same machine gives the same plan. Peak ≈ weights + batch · cells · k, exact over 64–256 latents on meta tensors for the UNets
measured; until it is calibrated on a GPU, a factor of 1.3 and 0.6 GiB are added on accelerators.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from tilehires.errors import ConfigError
from tilehires.geometry import Size

GIB = 1024**3
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": GIB, "T": 1024**4}
RESERVE = int(0.6 * GIB)
SAFETY = 1.3
MOST_TILES = 8  # beyond this a larger batch no longer raises the speed of the GPUs we know figures of


@dataclass(frozen=True, slots=True)
class Need:
    """What one denoiser call takes: bytes of resident weights, and bytes per latent cell and batch entry."""

    weights: int
    per_cell: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is cut to the budget; `peak` is the predicted device memory in bytes at that batch."""

    tile_batch: int
    peak: int
    budget: int


@dataclass(frozen=True, slots=True)
class VaeShape:
    """What of a VAE decides its memory: channels by level, finest first; `bounded`: it has no layer that sees it all."""

    channels: tuple[int, ...]
    bounded: bool


VaeMode = Literal["whole", "tiled", "estimated"]


def vae_mode(
    asked: VaeMode | Literal["auto"], canvas: Size, shape: VaeShape, *, whole_max: int, budget: int
) -> VaeMode:
    """How a canvas of that many pixels goes through the VAE. `budget`: bytes of host memory.

    A bounded VAE is exact by tiles, so it is never estimated.
    """
    if asked == "auto":
        if canvas.long_side <= whole_max:
            return "whole"
        asked = "tiled" if shape.bounded or vae_bytes(shape, canvas) <= budget else "estimated"
    return "tiled" if asked == "estimated" and shape.bounded else asked


def vae_bytes(shape: VaeShape, canvas: Size) -> int:
    """Host memory of the activations of a streamed AutoencoderKL (tiling/streamed.py) over a canvas of that many pixels.

    In float32, whatever is asked: what overflows in 16 bits is done again, and the mode must not hang on that.
    """
    channels = shape.channels
    values = 0.0
    for level, width in enumerate(channels):
        finer, coarser = channels[max(level - 1, 0)], channels[min(level + 1, len(channels) - 1)]
        encoding = 2 * width + (finer if finer != width else 0)  # in, between, and out where it can't lie in the former
        decoding = max(coarser + width, 1.25 * coarser, 2 * width)
        values = max(values, max(encoding, decoding) / 4**level)
    return int(4 * values * canvas.pixels)


def host_memory() -> int:
    """Bytes of memory this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * GIB  # Windows tells it another way; a figure that any machine that can run this has


def host_budget(asked: str) -> int:
    """Bytes of host memory that memory.ram allows; "auto": half of what the machine has."""
    return host_memory() // 2 if asked == "auto" else parse_bytes(asked, what="memory.ram")


def parse_bytes(text: str, *, what: str) -> int:
    """Bytes from "8GB", "512M", "1.5 GiB" (all powers of 1024). Raises ConfigError on anything else; `what` names the setting."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not match:
        raise ConfigError(f"{what} = {text!r} is no amount of memory.", hint='Write it like "8GB" or "512MB".')
    return int(float(match[1]) * UNITS[match[2]])


def plan(
    need: Need,
    tile: Size,
    tiles: int,
    *,
    canvas: Size,
    budget: int,
    guided: bool,
    accelerator: bool,
    asked_batch: int = 0,
) -> Plan:
    """Choose the tile batch for tiles of `tile` cells.

    `canvas`: the largest canvas, in cells, that is sampled in one piece (hires.max_canvas). `guided`: classifier-free
    guidance doubles every batch. `asked_batch`: the user's own figure, 0 for ours.
    Raises ConfigError when one tile, or that canvas, doesn't fit the budget, with the setting that would make it fit.
    """

    def peak(size: Size, batch: int) -> int:
        work = need.weights + batch * (2 if guided else 1) * size.pixels * need.per_cell
        return int(work * SAFETY + RESERVE) if accelerator else int(work)

    whole = peak(canvas, 1)
    for what, least, setting in (
        ("One tile", peak(tile, 1), "tiled.tile_max"),
        ("A canvas", whole, "hires.max_canvas"),
    ):
        if least > budget:
            size = tile if what == "One tile" else canvas
            raise ConfigError(
                f"{what} of {size} cells needs {least / GIB:.1f} GiB, and the budget is {budget / GIB:.1f} GiB.",
                hint=f"Lower {setting} (--set {setting}=…), or raise --vram (memory.ram on a CPU).",
            )
    if asked_batch:
        return Plan(asked_batch, max(whole, peak(tile, asked_batch)), budget)
    # A CPU gains nothing from batches: one tile already fills its cores, and the smaller working set stays in its caches.
    most = min(MOST_TILES, tiles) if accelerator else 1
    batch = next(b for b in range(most, 0, -1) if peak(tile, b) <= budget)
    return Plan(batch, max(whole, peak(tile, batch)), budget)
