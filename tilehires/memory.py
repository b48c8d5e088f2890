"""The planner: how many tiles go through the model at once, what stays on the device, and what that will take.

Pure arithmetic: the plan follows from (device, declared budget, size, settings), never from what happens to be free, so that
the same machine gives the same plan. A model's peak is its weights and the work memory of one call; what each family, VAE
and upscaler takes per cell or pixel was measured on meta tensors (benchmarks/memory.py). Until it is calibrated on a GPU
(benchmarks/memory_gpu.py), work is counted 1.3 times and 0.6 GiB are added on accelerators; weights are known to the byte.
A budget changes the batch and the offload only: never geometry, number format or the VAE's mode.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tilehires.errors import ConfigError
from tilehires.geometry import Size

GIB = 1024**3
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": GIB, "T": 1024**4}
RESERVE = int(0.6 * GIB)
SAFETY = 1.3
MOST_TILES = 8  # beyond this a larger batch no longer raises the speed of the GPUs we know figures of

Offload = Literal["resident", "staged", "streamed"]
OFFLOADS: tuple[Offload, ...] = ("resident", "staged", "streamed")
MEANING: dict[Offload, str] = {
    "resident": "all models stay on the device",
    "staged": "one model on the device at a time",
    "streamed": "weights go through the device layer by layer",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """Work memory in bytes of one call of a model, at most; `what` describes the call.

    `setting` bounds it, by a side of `side` pixels ("": nothing does). `batched`: it is for each tile of a batch.
    `regions`: it is for each region of a batch of a detail pass.
    """

    what: str
    bytes: int
    setting: str = ""
    side: int = 0
    batched: bool = False
    regions: bool = False

    def at(self, batch: int, regions: int = 1) -> int:
        return self.bytes * (batch if self.batched else regions if self.regions else 1)


@dataclass(frozen=True, slots=True)
class Part:
    """A model that works by itself: its weights in bytes, and its demands, of which one is met at a time.

    `layer`: the bytes of its largest layer, what streaming holds at once; 0: it isn't streamed. `alone`: it never shares
    an accelerator with the others, whatever stays there, and they leave for it.
    """

    name: str
    weights: int
    demands: tuple[Demand, ...]
    layer: int = 0
    alone: bool = False

    def demand(self, batch: int, regions: int = 1) -> Demand:
        """The largest."""
        return max(self.demands, key=lambda demand: demand.at(batch, regions))


@dataclass(frozen=True, slots=True)
class Peak:
    """What a part takes at its most: weights on the device then, and work. In bytes, margins included."""

    part: str
    what: str
    weights: int
    work: int

    @property
    def bytes(self) -> int:
        return self.weights + self.work


@dataclass(frozen=True, slots=True)
class Plan:
    """How the work is cut to the budget, in bytes, and what every part then takes."""

    tile_batch: int
    offload: Offload
    peaks: tuple[Peak, ...]
    budget: int
    region_batch: int = 1
    """Regions of a detail pass that go through the model at once."""

    @property
    def highest(self) -> Peak:
        return max(self.peaks, key=lambda peak: peak.bytes)

    @property
    def peak(self) -> int:
        """The predicted peak of device memory in bytes; host memory on a CPU."""
        return self.highest.bytes

    def lines(self) -> list[str]:
        """For people: the choice, then a line for each part, the highest marked."""
        tiles = f"{self.tile_batch} tile{'s' if self.tile_batch > 1 else ''} at a time"
        head = (
            f"{self.peak / GIB:.2f} of {self.budget / GIB:.1f} GiB: {tiles}, {self.offload} ({MEANING[self.offload]})"
        )
        rows = [
            f"  {peak.part:<14} {peak.bytes / GIB:>6.2f} GiB = {peak.weights / GIB:.2f} weights + {peak.work / GIB:.2f} "
            f"work: {peak.what}{'  <- the peak' if peak is self.highest else ''}"
            for peak in self.peaks
        ]
        return [head, *rows]


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


def plan(parts: Sequence[Part], *, budget: int, accelerator: bool, asked_batch: int = 0) -> Plan:
    """As `plan_all`, for models that are all on the device by turns, or all stay there. At least one part."""
    return plan_all([parts], budget=budget, accelerator=accelerator, asked_batch=asked_batch)


def plan_all(groups: Sequence[Sequence[Part]], *, budget: int, accelerator: bool, asked_batch: int = 0) -> Plan:
    """Choose the tile batch, the offload and the region batch for the models of a run or of one image.

    `groups`: models that are there one group after the other, such as those of two passes; the peaks of the plan are those
    of the group that takes most. Models stay on the device where that costs no tile of a batch; else they take turns, in as
    large a batch as fits; and only where not even one tile does, weights are streamed. Then as many regions go together as
    still fit. `asked_batch`: the user's own figure, 0 for ours; of regions it is the most.
    Raises ConfigError when nothing fits the budget, with the setting that would make it fit.
    """
    tries = list(_tries(asked_batch, accelerator=accelerator))
    most = asked_batch or (MOST_TILES if accelerator else 1)

    def at(offload: Offload, batch: int, regions: int) -> Plan:
        found = [peaks(group, batch, offload, regions, accelerator=accelerator) for group in groups]
        return Plan(batch, offload, max(found, key=_highest), budget, regions)

    for offload, batch in tries:
        if at(offload, batch, 1).peak <= budget:
            made = (at(offload, batch, regions) for regions in range(most, 0, -1))
            return next(one for one in made if one.peak <= budget)
    offload, batch = tries[-1]
    top = max(groups, key=lambda group: _highest(peaks(group, batch, offload, accelerator=accelerator)))
    raise _refusal(top, batch, offload, budget=budget, accelerator=accelerator)


def _highest(found: Sequence[Peak]) -> int:
    return max(peak.bytes for peak in found)


def _tries(asked_batch: int, *, accelerator: bool) -> Iterator[tuple[Offload, int]]:
    """From the quickest to the thriftiest."""
    # A CPU gains nothing from batches: one tile already fills its cores, and the smaller working set stays in its caches.
    most = asked_batch or (MOST_TILES if accelerator else 1)
    batches = (most,) if asked_batch else range(most, 0, -1)
    yield "resident", most
    if accelerator:
        for batch in batches:
            yield "staged", batch
        for batch in batches:
            yield "streamed", batch


def peaks(
    parts: Sequence[Part], batch: int, offload: Offload, regions: int = 1, *, accelerator: bool
) -> tuple[Peak, ...]:
    """What every part takes at those batches and offload. Without an accelerator all weights are in host memory, always."""
    together = sum(part.weights for part in parts if not (part.alone and accelerator))
    found = []
    for part in parts:
        demand = part.demand(batch, regions)
        weights = together if offload == "resident" and not (part.alone and accelerator) else part.weights
        if offload == "streamed" and part.layer:
            weights = 2 * part.layer  # the next layer comes before the last one's memory is given back
        work = demand.at(batch, regions)
        found.append(Peak(part.name, demand.what, weights, int(work * SAFETY + RESERVE) if accelerator else work))
    return tuple(found)


def _refusal(parts: Sequence[Part], batch: int, offload: Offload, *, budget: int, accelerator: bool) -> ConfigError:
    """Why it doesn't fit, and what would make it fit: a value where a setting bounds the highest part."""
    top = max(peaks(parts, batch, offload, accelerator=accelerator), key=lambda peak: peak.bytes)
    demand = next(part for part in parts if part.name == top.part).demand(batch)
    larger = "--vram" if accelerator else "memory.ram"
    hint = f"Raise {larger} to {math.ceil(top.bytes / GIB * 10) / 10:.1f}GB."
    left = budget - top.weights
    left = (left - RESERVE) / SAFETY if accelerator else left
    if batch > 1 and demand.batched and demand.at(1) <= left:
        hint = f"Lower memory.tile_batch (--set memory.tile_batch={int(left // demand.bytes)}). Or: {hint}"
    elif demand.setting:
        side = int(demand.side * math.sqrt(max(0.0, left) / demand.at(batch))) // 64 * 64
        value = f" (--set {demand.setting}={side})" if side >= 256 else ""
        hint = f"Lower {demand.setting}{value}. Or: {hint}" if value else hint
    return ConfigError(
        f"The {top.part} needs {top.bytes / GIB:.1f} GiB for {top.what}, and the budget is {budget / GIB:.1f} GiB.",
        hint=hint,
    )
