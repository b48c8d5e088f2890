"""Seams of our own tile engine: how far the statistic at the true boundaries stands out from pseudo-boundaries.

    python -m benchmarks.seams [--side 256] [--denoise 0.2 0.4 0.6]

Four inputs (a smooth gradient, a night sky, a portrait, a texture) of --side pixels go to 2x with the built-in model,
forced into tiles of at most 256 px with 64 px of overlap. For each image and denoise the table prints the statistic of
the seam checks (tone, sharpness) and z: how many standard deviations it lies above the mean of 200 draws of
pseudo-boundaries, lines at random places away from the true ones. Ours must stay within that null distribution: z < 3.
The same picture sampled in one piece, which has no seams, is judged at the same lines: what it shows there as well is
the picture's own.

Beside it: the peers' way on the same input with the same model, steps, scheduler and tiles: each tile encoded, sampled
and decoded by itself, one after the other, all with the same noise, and pasted with a blurred mask (Ultimate SD
Upscale's linear redraw). And what the measure would have seen: ours with every tile lightened or darkened by one level
(steps of 2 levels), and with every other tile blurred (sigma 0.8).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import skimage.data
import torch
from PIL import Image

from tilehires import run, upscalers
from tilehires.checks import seam_sharpness, seam_tone
from tilehires.checks.boundaries import boundaries
from tilehires.checks.planes import blurred
from tilehires.checks.steps import statistic, z_score
from tilehires.config import Config
from tilehires.diffusion import checkpoints, noise, prompts, samplers, sampling
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.components import Diffusion
from tilehires.geometry import Box, Size
from tilehires.images import read
from tilehires.tiling import vae

BAR = 3.0
STEPS = 4
TILE, PADDING, MASK_BLUR = 256, 32, 8  # of the peers' way, the last two its defaults; ours overlaps by two paddings
SIDE = TILE - 2 * PADDING


def gradient(side: int) -> np.ndarray:
    """A sky: smooth in all channels, no texture at all."""
    y, x = np.mgrid[0:side, 0:side] / side
    return np.stack([0.2 + 0.5 * y, 0.35 + 0.4 * y, 0.75 - 0.15 * x * y], -1)


def night(side: int) -> np.ndarray:
    """A dark gradient with stars."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:side, 0:side] / side
    sky = np.stack([0.02 + 0.04 * y, 0.03 + 0.05 * y, 0.08 + 0.10 * y + 0.02 * x], -1)
    for cy, cx, size, light in rng.uniform((0, 0, 0.5, 0.2), (side, side, 1.2, 0.9), (120, 4)):
        sky += (light * np.exp(-((y * side - cy) ** 2 + (x * side - cx) ** 2) / (2 * size**2)))[..., None]
    return sky


def portrait(side: int) -> np.ndarray:
    return _square(skimage.data.astronaut()[0:330, 60:390], side)


def texture(side: int) -> np.ndarray:
    return _square(np.repeat(skimage.data.grass()[..., None], 3, 2), side)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)) / 255


INPUTS = {"gradient": gradient, "night sky": night, "portrait": portrait, "texture": texture}


def ours(image: np.ndarray, denoise: float, *, tiled: bool = True) -> tuple[np.ndarray, list[Box]]:
    """What `tilehires run` makes of H×W×3 in [0, 1] at 2x, and the boxes of its tiles."""
    canvas = TILE if tiled else 2 * max(image.shape)
    values = {"max_canvas": canvas, "denoise": denoise, "steps": STEPS}
    tiles = {"tile_max": TILE, "tile_min": TILE // 2, "overlap": 2 * PADDING}
    config = Config.load().with_layer({"hires": values, "tiled": tiles, "run": {"device": "cpu"}}, "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.png", Path(folder) / "out"
        Image.fromarray((image * 255 + 0.5).astype(np.uint8)).save(source)
        summary = run(config, source, output)
        if summary.failed:
            raise SystemExit("\n".join(summary.lines()))
        facts = next(stage.facts for stage in summary.records[0].stages if stage.name == "hires")
        return read(output / "in.png").pixels, [Box(*box) for box in facts["tiles"]]


def peers(image: np.ndarray, denoise: float) -> tuple[np.ndarray, list[Box]]:
    """The same by sequential redraw of tiles of SIDE px with their padding, so that TILE px are sampled."""
    height, width = 2 * image.shape[0], 2 * image.shape[1]
    canvas = upscalers.resolve("builtin").upscale(image.astype(np.float32), Size(width, height))
    bay = Bay()
    checkpoint = checkpoints.inspect("builtin")
    model = bay.diffusion(checkpoint)
    condition = prompts.encode(model, "", "", guided=False, clip_skip=1, device="cpu")
    tiles = []
    for y in range(0, height, SIDE):
        for x in range(0, width, SIDE):
            tile = Box(x, y, min(x + SIDE, width), min(y + SIDE, height))
            x0, y0 = (
                max(0, min(x - PADDING, width - SIDE - 2 * PADDING)),
                max(0, min(y - PADDING, height - SIDE - 2 * PADDING)),
            )
            seen = Box(x0, y0, x0 + SIDE + 2 * PADDING, y0 + SIDE + 2 * PADDING)
            redrawn = img2img(canvas[seen.slices], model, condition, denoise)
            mask = np.zeros((height, width), np.float32)
            mask[tile.slices] = 1
            mask = blurred(mask, MASK_BLUR)[seen.slices][..., None]
            canvas[seen.slices] = canvas[seen.slices] * (1 - mask) + redrawn * mask
            canvas = np.round(canvas.clip(0, 1) * 255).astype(np.float32) / 255  # every tile makes an 8-bit round trip
            tiles.append(tile)
    return canvas, tiles


def img2img(pixels: np.ndarray, model: Diffusion, condition: prompts.Conditioning, denoise: float) -> np.ndarray:
    """One tile encoded, sampled and decoded by itself; every tile gets the same noise, as there."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None] * 2 - 1
    made = sampling.sample(
        model,
        condition,
        vae.encode(model.vae, planes, mode="whole"),
        scheduler=samplers.make("DDIM", "Automatic", model.scheduler_config),
        steps=sampling.exact_steps(STEPS, denoise),
        cfg=1.0,
        noise=noise.CanvasNoise(1, "tile"),
        size=Size(pixels.shape[1], pixels.shape[0]),
    )
    planes = vae.decode(model.vae, made.latents, mode="whole")
    return ((planes[0].numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)


def spoilt(output: np.ndarray, tiles: Sequence[Box], *, levels: float = 0, blur: float = 0) -> np.ndarray:
    """Tiles as hard-edged blocks that end in mid-overlap, lightened or darkened by half of `levels`, every other blurred."""
    lines, made, rng = boundaries(tiles), output.copy(), np.random.default_rng(0)
    height, width = output.shape[:2]
    xs = [0, *sorted({line.position for line in lines if line.axis == "x"}), width]
    ys = [0, *sorted({line.position for line in lines if line.axis == "y"}), height]
    for i, (y0, y1) in enumerate(pairwise(ys)):
        for j, (x0, x1) in enumerate(pairwise(xs)):
            block = Box(x0, y0, x1, y1).slices
            made[block] += rng.choice([-0.5, 0.5]) * levels / 255
            if blur and (i + j) % 2:
                made[block] = blurred(output, blur)[block]
    return made.clip(0, 1)


def judge(output: np.ndarray, image: np.ndarray, tiles: Sequence[Box], check: ModuleType) -> tuple[float, float]:
    """The statistic of a seam check at the tile boundaries, and its z."""
    steps, lines = check.steps_of(output, image), boundaries(tiles)
    return statistic(steps, lines), z_score(steps, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--denoise", type=float, nargs="+", default=[0.2, 0.4, 0.6])
    asked = parser.parse_args()
    print(f"2x to {2 * asked.side}²: statistic (z) at the tile boundaries; the bar is for ours: z < {BAR:g}")
    titles = ("ours: tone", "sharpness", "one piece: tone", "sharpness", "peers: tone", "sharpness")
    titles += ("2 levels: tone", "blur: sharpness")
    print(f"{'input':12}{'denoise':>8}" + "".join(f"{title:>16}" for title in titles))
    worst, own = -np.inf, -np.inf
    for name, draw in INPUTS.items():
        image = np.round(draw(asked.side) * 255).clip(0, 255).astype(np.float32) / 255
        for denoise in asked.denoise:
            output, tiles = ours(image, denoise)
            whole, _ = ours(image, denoise, tiled=False)
            theirs, their_tiles = peers(image, denoise)
            values = [
                judge(output, image, tiles, seam_tone),
                judge(output, image, tiles, seam_sharpness),
                judge(whole, image, tiles, seam_tone),
                judge(whole, image, tiles, seam_sharpness),
                judge(theirs, image, their_tiles, seam_tone),
                judge(theirs, image, their_tiles, seam_sharpness),
                judge(spoilt(output, tiles, levels=2), image, tiles, seam_tone),
                judge(spoilt(output, tiles, blur=0.8), image, tiles, seam_sharpness),
            ]
            worst = max(worst, values[0][1], values[1][1])
            own = max(own, values[0][1] - max(0, values[2][1]), values[1][1] - max(0, values[3][1]))
            cells = "".join(f"{f'{value:.2f} ({z:+.1f})':>16}" for value, z in values)
            print(f"{name:12}{denoise:8.1f}{cells}", flush=True)
    print(f"largest z of ours: {worst:.1f}; largest beyond that of the same picture in one piece: {own:.1f}")


if __name__ == "__main__":
    main()
