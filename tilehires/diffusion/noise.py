"""Where noise comes from: canvas-shaped, on the CPU, the same whatever the tile, the batch, the device or the order."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch


class NoiseSource(Protocol):
    """A sampling pass's noise."""

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The noise a pass begins with: float32, CPU."""
        ...

    def generator(self, step: int) -> torch.Generator:
        """The generator an ancestral or SDE scheduler draws from in step `step`."""
        ...


class CanvasNoise:
    """Noise of (seed, pass, step): each step has a seed of its own, so that a pass may go on from any step."""

    def __init__(self, seed: int, name: str) -> None:
        self._seed, self._name = seed, name
        self._generator = torch.Generator()

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator(-1))

    def generator(self, step: int) -> torch.Generator:
        return self._generator.manual_seed(derived_seed(self._seed, self._name, step))


class CutNoise:
    """A piece's part of a pass's noise, for pieces that are sampled one by one: what the whole canvas would begin with there.

    What a scheduler draws in its steps is of (seed, pass, piece, step).
    """

    def __init__(self, cut: torch.Tensor, seed: int, name: str) -> None:
        """`cut`: that part of the canvas's noise. `name`: the pass's and the piece's."""
        self._cut, self._steps = cut, CanvasNoise(seed, name)

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        if tuple(self._cut.shape) != tuple(shape):
            raise ValueError(f"noise cut to {tuple(self._cut.shape)} for a piece of {tuple(shape)}")
        return self._cut

    def generator(self, step: int) -> torch.Generator:
        return self._steps.generator(step)


class StockNoise:
    """One generator drawn from in turn, as diffusers' pipelines do: what they make from it, our loop makes as well."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def generator(self, step: int) -> torch.Generator:
        return self._generator


def derived_seed(seed: int, name: str, step: int) -> int:
    """A 63-bit seed from an image's seed, a pass's name and a step, by SHA-256: neighbours have nothing in common."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
