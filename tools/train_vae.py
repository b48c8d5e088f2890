"""Train the autoencoder: diffusers' AutoencoderTiny, x2 with 8 latent channels, first whole, then its decoder alone.

    python -m tools.train_vae

The encoder starts as a linear map: the four pixels of a 2x2 cell, then their principal components, evened out in
spread, so that diffusion noise of a given strength costs detail and colour about alike. Freezing the encoder after the
first phase lets the UNet's training start while the decoder improves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tools.training import LEAVES_ALL, Run, arguments, cosine, crops, leaves, psnr, render

LATENTS, WIDTH = 8, 32
STEPS = {1: 4000, 2: 1800}
SPREAD = 0.45
"""Deviation the starting encoder gives its latents; the decoder clamps softly at 3."""


def build(images: NDArray[np.uint8] | None = None) -> AutoencoderTiny:
    """An untrained autoencoder; with `images` (n, h, w, 3) its encoder starts as their whitened components."""
    torch.manual_seed(2)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH, WIDTH),
        decoder_block_out_channels=(WIDTH, WIDTH),
        num_encoder_blocks=(0, 3),
        num_decoder_blocks=(4, 1),
        latent_channels=LATENTS,
        scaling_factor=1.0,
    )
    if images is not None:
        start_linear(vae, images)
    return vae


@torch.no_grad()
def start_linear(vae: AutoencoderTiny, images: NDArray[np.uint8]) -> None:
    """Set the encoder to 2x2 cells -> LATENTS principal components; every block starts near the identity."""
    cells = functional.pixel_unshuffle(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, 2)
    cells = cells.permute(0, 2, 3, 1).reshape(-1, 12).double()
    values, vectors = torch.linalg.eigh(torch.cov(cells.T))
    order = values.argsort(descending=True)[:LATENTS]
    deviation = values[order].sqrt()
    components = vectors[:, order].T * (deviation ** (0.25 - 1) / (deviation**0.25).mean() * SPREAD)[:, None]
    first, second, last = vae.encoder.layers[0], vae.encoder.layers[1], vae.encoder.layers[-1]
    first.weight[:3], first.bias[:3] = 0, 0
    second.weight[:12] = 0
    last.weight.mul_(0.1)
    last.weight[:, :12] = 0
    for c in range(3):
        first.weight[c, c, 1, 1] = 1
        for y in range(2):
            for x in range(2):
                second.weight[c * 4 + y * 2 + x, c, 1 + y, 1 + x] = 1
    last.weight[:, :12, 1, 1] = components.float()
    last.bias.copy_(-(components @ cells.mean(0)).float())
    for block in (*vae.encoder.layers, *vae.decoder.layers):
        if hasattr(block, "fuse"):
            block.conv[-1].weight.mul_(0.1)
            block.conv[-1].bias.zero_()
    vae.decoder.layers[-1].bias.fill_(0.45)


def reconstruct(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Encode and decode images in [0, 1], (n, 3, h, w)."""
    return vae.decode(vae.encode(images * 2 - 1).latents).sample / 2 + 0.5


def validate(vae: AutoencoderTiny, truth: Tensor) -> float:
    """Mean dB of the reconstructions of `truth`, (n, 3, h, w) in [0, 1]."""
    with torch.no_grad():
        return sum(psnr(reconstruct(vae, image[None]), image[None]) for image in truth) / len(truth)


@torch.no_grad()
def set_scaling(vae: AutoencoderTiny, images: Tensor) -> None:
    """Write into the config the factor that brings the latents of `images` to unit deviation."""
    latents = vae.encode(images * 2 - 1).latents
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    each = [f"{v:.2f}" for v in (latents.std((0, 2, 3)) / latents.std()).tolist()]
    print(f"latents: mean {latents.mean():.3f}, deviation {latents.std():.3f}, channels {' '.join(each)}", flush=True)


def joint_schedule(step: int, total: int) -> float:
    """Cosine to a quarter: phase two goes on from there."""
    return cosine(step, total, floor=0.25)


def decoder_schedule(step: int, total: int) -> float:
    """Cosine to zero, from where phase one ended."""
    return cosine(step, total, warm=50)


def train(work: Path, phase: int, steps: int) -> None:
    """Phase 1: both halves; phase 2: the decoder, to the end of the learning rate. Minimises L1 / 4 + 10 MSE."""
    images, held_out = leaves(work), leaves(work, train=False)[:40]
    drawn = np.concatenate([np.load(path) for path in sorted(work.glob("cap_*.npy"))[:20]])
    truth = torch.from_numpy(held_out).permute(0, 3, 1, 2) / 255
    vae = build(images[:100])
    if phase == 2:
        vae.load_state_dict(torch.load(work / "vae_1.pt", weights_only=True)["vae"])
        vae.encoder.requires_grad_(False)
    vae = vae.to(memory_format=torch.channels_last)
    trained = vae.decoder if phase == 2 else vae
    rate = 1.5e-3 if phase == 1 else 5e-4
    optimizer = torch.optim.Adam(trained.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = joint_schedule if phase == 1 else decoder_schedule
    run = Run(work / f"vae_{phase}.pt", steps, rate, optimizer, {"vae": vae}, schedule, seed=20 + phase)
    if run.finished():
        return
    for step, r in run.generators():
        target = crops(images, r, 8, 64, [drawn]).contiguous(memory_format=torch.channels_last)
        output = reconstruct(vae, target)
        run.update(functional.l1_loss(output, target) / 4 + 10 * functional.mse_loss(output, target), limit=0.5)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            print(f"VAE validation {validate(vae, truth):.2f} dB", flush=True)
            if phase == 1:
                set_scaling(vae, truth)


def main() -> None:
    """Command line."""
    options = arguments(__doc__ or "", steps_joint=STEPS[1], steps_decoder=STEPS[2])
    torch.set_num_threads(options.threads)
    render(options.work, "leaves", "dl", LEAVES_ALL)
    render(options.work, "captioned", "cap", 2000)
    train(options.work, 1, options.steps_joint)
    train(options.work, 2, options.steps_decoder)


if __name__ == "__main__":
    main()
