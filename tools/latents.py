"""Encode, once, what the UNet trains on: captioned pictures, and pairs of an upscaled and a true dead-leaves image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tools.captions import main_colour
from tools.training import leaves

PAIRS = 1000
PAIR_SEED = 31


def enlarge(small: Tensor, upscaler: nn.Module, r: np.random.Generator) -> Tensor:
    """A small image (1, 3, h, w) in [0, 1] at twice the size.

    Seven in ten go through the upscaler, the rest are enlarged bicubically or by Lanczos. One small image in eight
    first gets mild noise or JPEG artefacts.
    """
    if r.random() < 0.125:
        pixels = (small[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
        if r.random() < 0.5:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(r.integers(70, 96))]
            pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
        else:
            pixels = np.clip(pixels + r.normal(0, r.uniform(1, 4), pixels.shape), 0, 255).astype(np.uint8)
        small = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    if r.random() < 0.7:
        return upscaler(small).clamp(0, 1)
    pixels = small[0].permute(1, 2, 0).numpy()
    how = cv2.INTER_CUBIC if r.random() < 0.5 else cv2.INTER_LANCZOS4
    large = cv2.resize(pixels, None, fx=2, fy=2, interpolation=how)
    return torch.from_numpy(large).permute(2, 0, 1)[None].clamp(0, 1)


@torch.no_grad()
def encode_pairs(work: Path, vae: AutoencoderTiny, upscaler: nn.Module, scaling: float) -> None:
    """Write pairs.npy, (PAIRS, 2, 8, 128, 128) half: upscaled and true latents; and pairs.txt, the main colours."""
    target = work / "pairs.npy"
    if target.exists():
        return
    images = leaves(work)[:PAIRS]
    out = np.empty((len(images), 2, 8, 128, 128), np.float16)
    names: list[str] = []
    for row, image in enumerate(images):
        r = np.random.default_rng([PAIR_SEED, row])
        image = image[..., r.permutation(3)][:, :: r.choice([-1, 1])]
        names.append(main_colour(image))
        truth = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255
        both = torch.cat([enlarge(functional.avg_pool2d(truth, 2), upscaler, r), truth])
        out[row] = (vae.encode(both * 2 - 1).latents * scaling).half().numpy()
        if row % 300 == 299:
            print(f"pairs {row + 1}/{len(images)}", flush=True)
    (work / "pairs.txt").write_text("\n".join(names))
    write(target, out)


@torch.no_grad()
def encode_captioned(work: Path, vae: AutoencoderTiny, count: int, scaling: float) -> None:
    """Write captioned.npy, (count, 8, 64, 64) half, and captioned.txt, one caption a line."""
    target = work / "captioned.npy"
    if target.exists():
        return
    parts, captions = [], []
    for path in sorted(work.glob("cap_*.npy"))[: count // 100]:
        images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2) / 127.5 - 1
        parts += [(vae.encode(batch).latents * scaling).half().numpy() for batch in images.split(20)]
        captions += path.with_suffix(".txt").read_text().split("\n")
    (work / "captioned.txt").write_text("\n".join(captions))
    write(target, np.concatenate(parts))


def write(path: Path, array: NDArray[np.float16]) -> None:
    """np.save, atomically."""
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    temporary.replace(path)
