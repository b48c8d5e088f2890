"""From the canvas to latents and back, strip by strip: of a large picture no second float copy is made on the way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tilehires.checks import Finding
from tilehires.checks.finite import finite, joined
from tilehires.diffusion.components import Diffusion
from tilehires.geometry import OPEN, Size, Wrap
from tilehires.stages import Tools
from tilehires.tiling import vae
from tilehires.tiling.estimated import Deviation
from tilehires.tiling.planes import Planes

ROWS = 256  # rows turned into pixels at a time
UNIT = {"encode": 1.0, "decode": 0.5}  # latents as the VAE has them; pixels in [0, 1], of which it has [-1, 1]


@dataclass
class Passages:
    """One pass's ways through the VAE, and what is to be recorded of them."""

    model: Diffusion
    tools: Tools
    mode: vae.Mode
    name: str
    """The stage's, for the progress."""
    wrap: Wrap = OPEN
    made: dict[str, vae.Passage] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """How the VAE worked: its mode, what went otherwise than asked, and of estimates how far off they may be."""
        facts: dict[str, Any] = {"vae_mode": self.mode, "degradations": []}
        for passage in self.made.values():
            facts["vae_mode"] = passage.mode
            facts["degradations"] += [text for text in passage.degradations if text not in facts["degradations"]]
        deviations = {way: passage.deviation for way, passage in self.made.items() if passage.deviation}
        if deviations:
            facts["vae_error"] = {way: _rounded(one, UNIT[way]) for way, one in deviations.items()}
        return facts


def _rounded(deviation: Deviation, unit: float) -> dict[str, float]:
    return {"rms": float(f"{deviation.rms * unit:.3g}"), "max": float(f"{deviation.most * unit:.3g}")}


def to_latents(pixels: np.ndarray, canvas: Size, passages: Passages) -> torch.Tensor:
    """Latents of HWC pixels in [0, 1], mirrored out to `canvas`: 1×C×h×w, float32, on the CPU."""
    model, tools = passages.model, passages.tools
    tools.progress.begin(f"{passages.name}: encoding", 1)
    with tools.bay.on_device(model.vae):
        latents = vae.encode(
            model.vae,
            Planes(pixels, canvas),
            mode=passages.mode,
            device=tools.bay.device,
            tell=partial(passages.made.__setitem__, "encode"),
            wrap=passages.wrap,
        )
    tools.progress.advance()
    return latents


def to_pixels(
    latents: torch.Tensor, out: np.ndarray, passages: Passages, *, fallback: np.ndarray | None
) -> tuple[Finding, ...]:
    """Decode into `out`, HWC around [0, 1], unclipped; what lies beyond its right and lower edge is dropped.

    Pixels that are no numbers are taken from `fallback` (of the same size), else black; the finding flags the place.
    """
    model, tools = passages.model, passages.tools
    tools.progress.begin(f"{passages.name}: decoding", 1)
    landing = _Landing(out, fallback)
    with tools.bay.on_device(model.vae):
        vae.decode_into(
            model.vae,
            latents,
            landing,
            mode=passages.mode,
            device=tools.bay.device,
            tell=partial(passages.made.__setitem__, "decode"),
            wrap=passages.wrap,
        )
    tools.progress.advance()
    return tuple(joined(landing.findings))


class _Landing:
    """Where decoded strips, 1×3×rows×W around [-1, 1], are put down."""

    def __init__(self, out: np.ndarray, fallback: np.ndarray | None) -> None:
        self._out, self._fallback = out, fallback
        self.findings: list[Finding] = []

    def __call__(self, row: int, strip: torch.Tensor) -> None:
        if row == 0:
            self.findings = []  # a first attempt is forgotten when a second one begins
        height, width = self._out.shape[:2]
        for top in range(row, min(row + strip.shape[-2], height), ROWS):
            bottom = min(top + ROWS, row + strip.shape[-2], height)
            planes = strip[0, :, top - row : bottom - row, :width]
            self._put(top, (planes.numpy().transpose(1, 2, 0) + 1) / 2)

    def _put(self, top: int, values: np.ndarray) -> None:
        target = self._out[top : top + len(values)]
        if found := finite(values, values):
            bad = np.logical_not(np.isfinite(values).all(axis=2, keepdims=True))
            spare = 0 if self._fallback is None else self._fallback[top : top + len(values)]
            values = np.where(bad, spare, values)
            self.findings += [replace(one, box=one.box and one.box.shift(0, top)) for one in found]
        target[:] = values
