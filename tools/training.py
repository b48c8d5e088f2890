"""What the training scripts share: where things lie, the pre-rendered pictures, crops, checkpoints, learning rates."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.captions import captioned
from tools.draw import dead_leaves

SHARD = 100
LEAVES_SEED, CAPTION_SEED = 1, 7
LEAVES_TRAIN, LEAVES_ALL = 2300, 2400
"""Dead-leaves images 0 to LEAVES_TRAIN - 1 train; the rest of LEAVES_ALL validate and choose settings."""


def arguments(description: str, **steps: int) -> argparse.Namespace:
    """Command line of every script here: --work, --threads, and one option per number of steps."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=Path("/tmp/train"), help="data and checkpoints [/tmp/train]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    for name, default in steps.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"[{default}]")
    return parser.parse_args()


def write_shard(task: tuple[str, Path, int]) -> None:
    """Render one file of SHARD pictures, kind "leaves" or "captioned", starting at number `first`; atomic."""
    kind, path, first = task
    cv2.setNumThreads(1)
    temporary = path.with_suffix(".tmp.npy")
    if kind == "leaves":
        np.save(temporary, np.stack([dead_leaves(LEAVES_SEED, first + i) for i in range(SHARD)]))
    else:
        pairs = [captioned(CAPTION_SEED, first + i) for i in range(SHARD)]
        path.with_suffix(".txt").write_text("\n".join(caption for _, caption in pairs))
        np.save(temporary, np.stack([image for image, _ in pairs]))
    temporary.replace(path)


def render(work: Path, kind: str, prefix: str, count: int) -> None:
    """Draw what is missing of `count` pictures into work/prefix_NNNNN.npy, on every core."""
    files = [(kind, work / f"{prefix}_{first:05d}.npy", first) for first in range(0, count, SHARD)]
    missing = [task for task in files if not task[1].exists()]
    if missing:
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            pool.map(write_shard, missing, chunksize=1)


def leaves(work: Path, train: bool = True) -> NDArray[np.uint8]:
    """The rendered dead-leaves images, (n, 256, 256, 3) uint8 RGB: those that train, or those that validate."""
    first, last = (0, LEAVES_TRAIN) if train else (LEAVES_TRAIN, LEAVES_ALL)
    return np.concatenate([np.load(work / f"dl_{start:05d}.npy") for start in range(first, last, SHARD)])


def crops(
    images: NDArray[np.uint8], r: np.random.Generator, count: int, size: int, extra: list[NDArray[np.uint8]]
) -> Tensor:
    """Random crops, (count, 3, size, size) in [0, 1]: flipped, turned, channels shuffled, contrast varied.

    One in eight comes from `extra`, a list of image stacks of any size.
    """
    batch = np.empty((count, size, size, 3), np.float32)
    for row in range(count):
        stack = extra[r.integers(len(extra))] if extra and r.random() < 0.125 else images
        image = stack[r.integers(len(stack))]
        y, x = (r.integers(0, side - size + 1) for side in image.shape[:2])
        crop = image[y : y + size, x : x + size][:: r.choice([-1, 1]), :: r.choice([-1, 1])]
        crop = crop.transpose(1, 0, 2) if r.random() < 0.5 else crop
        batch[row] = crop[..., r.permutation(3)]
        if r.random() < 0.3:
            batch[row] = 255 * (batch[row] / 255) ** r.uniform(0.6, 1.6)
    return torch.from_numpy(batch / 255).permute(0, 3, 1, 2).contiguous()


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two tensors in [0, 1]."""
    return float(-10 * torch.log10((image.clamp(0, 1) - truth).square().mean()))


def cosine(step: int, total: int, warm: int = 200, floor: float = 0.0) -> float:
    """A learning-rate factor: linear rise over `warm` steps, then half a cosine down to `floor`."""
    if step < warm:
        return (step + 1) / warm
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def save(path: Path, content: dict[str, Any]) -> None:
    """torch.save, atomically."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


@dataclass
class Run:
    """One resumable training run: counts steps, sets the learning rate, saves every two minutes.

    A step's random numbers come from (seed, step) alone, so that a resumed run draws what an uninterrupted one does.
    """

    path: Path
    steps: int
    rate: float
    optimizer: torch.optim.Optimizer
    state: dict[str, torch.nn.Module]
    schedule: Callable[[int, int], float] = cosine
    seed: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def finished(self) -> bool:
        """Load the checkpoint if there is one, and say whether nothing is left to do."""
        self.done = 0
        if self.path.exists():
            content = torch.load(self.path, weights_only=True)
            self.done, self.seconds = content["done"], content["seconds"]
            for name, module in self.state.items():
                module.load_state_dict(content[name])
            if "optimizer" in content:
                self.optimizer.load_state_dict(content["optimizer"])
        return self.done >= self.steps

    def generators(self) -> Iterator[tuple[int, np.random.Generator]]:
        """(step, its generator) for the steps left; call `update` once in each."""
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        for step in range(self.done, self.steps):
            torch.manual_seed(self.seed * 1_000_003 + step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * group.get("factor", 1.0) * self.schedule(step, self.steps)
            yield step, np.random.default_rng([self.seed, step])
            self.seconds = time.monotonic() - started
            if (step + 1) % 100 == 0:
                recent = sum(self.losses[-100:]) / len(self.losses[-100:])
                progress = f"step {step + 1}/{self.steps} {self.seconds:.0f} s loss {recent:.5f}"
                print(self.path.stem, progress, flush=True)
            if time.monotonic() - saved > 120 or step + 1 == self.steps:
                saved = time.monotonic()
                content = {name: module.state_dict() for name, module in self.state.items()}
                content |= {"done": step + 1, "seconds": self.seconds, "optimizer": self.optimizer.state_dict()}
                save(self.path, content)

    def update(self, loss: Tensor, limit: float = 1.0) -> None:
        """One optimiser step; gradients are clipped to the norm `limit`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.apply(float(loss.detach()), limit)

    def apply(self, loss: float, limit: float = 1.0) -> None:
        """The optimiser step for gradients that are there already; `loss` is noted."""
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], limit)
        self.optimizer.step()
        self.losses.append(loss)
