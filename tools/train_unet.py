"""Train the UNet and the text encoder on encoded pictures; keep a running average of both.

    python -m tools.train_unet

Two kinds of step. *Restore*: crops of dead-leaves latents at low noise; seven in ten are noised from the
upscaled image while the target is the true one, so that re-denoising removes noise and blur together. *Draw*:
captioned pictures at every noise level, one caption in ten left out, for guidance. Prediction of v (Salimans and Ho,
2022); the loss is that of the clean latents weighted by 1 / (min(sigma^2, 1) + 0.05).
"""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tools import export, pipeline_parts, train_vae
from tools.latents import encode_captioned, encode_pairs
from tools.training import Run, arguments, cosine, leaves, render

STEPS = 1300
CAPTIONED = 10_000
RESTORE_BELOW = 450
RESTORE_EVERY = 3
RESTORE_WEIGHT = 0.3
"""Brings a restoring step's loss to about a drawing step's."""
CROP_STEPS = 1000
"""Drawing steps take crops of 32 cells before this step, whole pictures of 64 from then on."""
AVERAGE = 0.998
NOISE_RANGES, NOISE_SHARES = ((0, 400), (400, 700), (700, 940), (940, 1000)), (0.10, 0.20, 0.45, 0.25)
"""Timesteps of drawing steps: only near pure noise do the words tell more than the picture does."""
GENERIC = ("", "", "", "a photo", "a sharp detailed photo", "a natural image")


class Words(nn.Module):
    """The text encoder with its tokenizer: list of n captions to (n, 77, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: CLIPTokenizer = pipeline_parts.tokenizer()
        self.encoder: CLIPTextModel = pipeline_parts.text_encoder(self.tokens)

    def forward(self, captions: list[str]) -> Tensor:
        """Encode as StableDiffusionPipeline does: padded to 77, no mask, the last hidden state."""
        ids = self.tokens(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        return self.encoder(ids).last_hidden_state


def prepare(work: Path) -> None:
    """Freeze the encoder's scaling factor and encode everything, where that isn't done."""
    render(work, "captioned", "cap", CAPTIONED)
    vae = train_vae.build()
    vae.load_state_dict(torch.load(work / "vae_1.pt", weights_only=True)["vae"])
    scaling = work / "scaling.json"
    if not scaling.exists():
        truth = torch.from_numpy(leaves(work, train=False)[:40]).permute(0, 3, 1, 2) / 255
        train_vae.set_scaling(vae, truth)
        scaling.write_text(json.dumps({"scaling_factor": vae.config.scaling_factor}))
    factor = json.loads(scaling.read_text())["scaling_factor"]
    upscaler = export.upscaler(work, 2)
    encode_captioned(work, vae, CAPTIONED, factor)
    encode_pairs(work, vae, upscaler, factor)


def draw_batch(latents: NDArray[np.float16], captions: list[str], r: np.random.Generator, crop: bool) -> tuple:
    """Clean latents, the latents to noise (the same), captions, timesteps; cropped to 32 cells where `crop`.

    A crop is only taken of textures and plain colours, whose captions hold for any part of them.
    """
    size, count = (32, 24) if crop else (64, 8)
    rows: list[int] = []
    while len(rows) < count:
        row = int(r.integers(len(latents)))
        if not crop or row % 20 < 13:
            rows.append(row)
    y, x = (int(v) for v in r.integers(0, 64 - size + 1, 2))
    clean = torch.from_numpy(latents[rows, :, y : y + size, x : x + size].astype(np.float32))
    times = np.array([r.integers(*NOISE_RANGES[k]) for k in r.choice(len(NOISE_RANGES), count, p=NOISE_SHARES)])
    texts = ["" if r.random() < 0.1 else captions[row] for row in rows]
    return clean, clean, texts, torch.from_numpy(times)


def restore_batch(pairs: NDArray[np.float16], colours: list[str], r: np.random.Generator) -> tuple:
    """Clean latents, upscaled (7 in 10) or clean latents to noise, captions, timesteps, at 32 cells."""
    count, size = 24, 32
    clean, start, texts = [], [], []
    for _ in range(count):
        row = int(r.integers(len(pairs)))
        y, x = (int(v) for v in r.integers(4, 124 - size + 1, 2))
        window = pairs[row, :, :, y : y + size, x : x + size].astype(np.float32)
        clean.append(window[1])
        start.append(window[0] if r.random() < 0.7 else window[1])
        own = [f"an abstract collage, {colours[row]}", "abstract collage"]
        texts.append(str(r.choice([*GENERIC, *own])))
    times = torch.from_numpy(r.integers(0, RESTORE_BELOW, count))
    return torch.from_numpy(np.stack(clean)), torch.from_numpy(np.stack(start)), texts, times


def step_loss(unet: UNet2DConditionModel, text: Words, batch: tuple, power: Tensor) -> Tensor:
    """The weighted squared error of the clean latents, averaged."""
    clean, start, captions, times, noise = batch
    alpha = power[times].sqrt()[:, None, None, None]
    sigma = (1 - power[times]).sqrt()[:, None, None, None]
    noisy = alpha * start + sigma * noise
    with torch.autocast("cpu", torch.bfloat16):
        v = unet(noisy, times, text(captions)).sample.float()
    guess = alpha * noisy - sigma * v
    ratio = (sigma / alpha).square().clamp(max=1)
    # Where noise drowns the signal an error of v counts as an error of the clean latents.
    return ((guess - clean).square() / (ratio + 0.05)).mean()


def halves(batch: tuple) -> list[tuple]:
    """The batch with its noise, as two batches of half the size."""
    clean, start, captions, times = batch
    noise = torch.randn_like(start)
    middle = len(captions) // 2
    parts = slice(None, middle), slice(middle, None)
    return [(clean[p], start[p], captions[p], times[p], noise[p]) for p in parts]


def accumulate(model: nn.ModuleList, batch: tuple, power: Tensor, weight: float, pool: ThreadPoolExecutor) -> float:
    """Set the gradients of the batch's loss times `weight`; returns that loss.

    The halves run in two Python threads of one core each: on a busy machine that is several times faster than two
    threads inside each operation, which wait for each other every time.
    """
    parameters = list(model.parameters())

    def one(half: tuple) -> tuple[float, tuple[Tensor | None, ...]]:
        loss = step_loss(model[0], model[1], half, power) * (weight / 2)
        return float(loss.detach()), torch.autograd.grad(loss, parameters, allow_unused=True)

    (first, mine), (second, other) = pool.map(one, halves(batch))
    for parameter, a, b in zip(parameters, mine, other, strict=True):
        parameter.grad = None if a is None or b is None else a.add_(b)
    return first + second


class Average(nn.Module):
    """Running averages of the UNet's and the text encoder's weights."""

    def __init__(self, unet: UNet2DConditionModel, text: Words) -> None:
        super().__init__()
        self.unet = copy.deepcopy(unet).requires_grad_(False)
        self.text = copy.deepcopy(text.encoder).requires_grad_(False)

    @torch.no_grad()
    def update(self, unet: UNet2DConditionModel, text: Words, step: int) -> None:
        """Move towards the current weights, faster at first."""
        keep = min(AVERAGE, (1 + step) / (10 + step))
        for mine, theirs in ((self.unet, unet), (self.text, text.encoder)):
            torch._foreach_lerp_(list(mine.parameters()), [p.detach() for p in theirs.parameters()], 1 - keep)


def late_decay(step: int, total: int) -> float:
    """Full rate after a rise over 200 steps; half a cosine to zero over the last two fifths."""
    if step < 0.6 * total:
        return min(1.0, (step + 1) / 200)
    return cosine(step - int(0.6 * total), total - int(0.6 * total), warm=0)


def train(work: Path, steps: int) -> None:
    """Train for `steps`, one in RESTORE_EVERY restoring."""
    unet, text = pipeline_parts.unet().to(memory_format=torch.channels_last), Words()
    average = Average(unet, text)
    groups = [{"params": list(unet.parameters())}, {"params": list(text.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    state: dict[str, nn.Module] = {"unet": unet, "text": text, "average": average}
    run = Run(work / "unet.pt", steps, 1e-3, optimizer, state, late_decay, seed=40)
    if run.finished():
        return
    power = torch.from_numpy(pipeline_parts.signal_power()).float()
    latents = np.load(work / "captioned.npy")
    captions = (work / "captioned.txt").read_text().split("\n")
    pairs, colours = np.load(work / "pairs.npy"), (work / "pairs.txt").read_text().split("\n")
    both, pool = nn.ModuleList([unet, text]), ThreadPoolExecutor(2)
    torch.set_num_threads(1)
    kinds: dict[str, list[float]] = {"drawing": [], "restoring": []}
    for step, r in run.generators():
        if step % RESTORE_EVERY == 0:
            loss = accumulate(both, restore_batch(pairs, colours, r), power, RESTORE_WEIGHT, pool)
        else:
            loss = accumulate(both, draw_batch(latents, captions, r, step < CROP_STEPS), power, 1.0, pool)
        run.apply(loss)
        average.update(unet, text, step)
        kinds["restoring" if step % RESTORE_EVERY == 0 else "drawing"].append(run.losses[-1])
        if (step + 1) % 150 == 0:
            print(", ".join(f"{kind} {np.mean(values[-100:]):.4f}" for kind, values in kinds.items()), flush=True)


def main() -> None:
    """Command line."""
    options = arguments(__doc__ or "", steps=STEPS)
    torch.set_num_threads(options.threads)
    prepare(options.work)
    train(options.work, options.steps)


if __name__ == "__main__":
    main()
