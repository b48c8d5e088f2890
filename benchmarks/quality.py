"""What the built-in model's quality claims rest on: photographs it never saw, and prompts judged by a classifier.

    python -m benchmarks.quality [--set hires.denoise=0.1 …] [--seeds 64] [--skip-prompts] [--skip-photos]

Run from the repository's root, with scikit-image and piq installed. For each photograph, cropped to multiples of 8 and
area-downsampled by 2, the table gives PSNR, SSIM, GMSD (lower is better) and HaarPSI against the original for: Lanczos,
the 2x upscaler, the autoencoder (of the original itself), and `tilehires run` at 2x with the default preset.
Then, over --seeds prompts "<colour> <texture>" at native size: how often the asked colour is the main one and the
asked texture is what an independent classifier sees; the classifier's own accuracy stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import piq
import skimage.data
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from spandrel import ModelLoader
from torch import Tensor, nn
from torch.nn import functional

from tilehires import run
from tilehires.config import Config, parse_set
from tilehires.images import read
from tools.captions import NAMES, main_colour
from tools.texture_judge import fit
from tools.vocabulary import TEXTURES

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")


def photograph(name: str) -> Tensor:
    """A test photograph, sides cropped to multiples of 8: (1, 3, h, w) in [0, 1]."""
    pixels = getattr(skimage.data, name)()[..., :3]
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    return torch.from_numpy(np.ascontiguousarray(pixels[:height, :width])).permute(2, 0, 1)[None] / 255


def rounded(image: Tensor) -> Tensor:
    """What an 8-bit file keeps of an image in [0, 1]."""
    return (image.clamp(0, 1) * 255).round() / 255


def lanczos(image: Tensor) -> Tensor:
    """(1, 3, h, w) at twice the size by Pillow's Lanczos filter."""
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    large = Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None] / 255


def measures(image: Tensor, truth: Tensor) -> tuple[float, float, float, float]:
    """PSNR in dB, SSIM, GMSD, HaarPSI of two images (1, 3, h, w) in [0, 1]; the first is rounded to 8 bits."""
    image = rounded(image)
    decibels = float(-10 * torch.log10((image - truth).square().mean().clamp(min=1e-10)))
    # SSIM at full size: piq's default halves images from 384 px, which hides the detail in question.
    similarity = float(piq.ssim(image, truth, downsample=False))
    return decibels, similarity, float(piq.gmsd(image, truth)), float(piq.haarpsi(image, truth))


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The model folder in float32."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_upscaler(path: Path) -> nn.Module:
    """A spandrel upscaler in float32."""
    return ModelLoader().load_from_file(path).model.float().eval()


def decode(pipe: StableDiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents to an image in [0, 1]."""
    return (pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def encode(pipe: StableDiffusionPipeline, image: Tensor) -> Tensor:
    """An image in [0, 1] to latents."""
    return pipe.vae.encode(image * 2 - 1).latents * pipe.vae.config.scaling_factor


def runs(images: dict[str, Tensor], changes: list[str]) -> dict[str, Tensor]:
    """What `tilehires run` makes of images (1, 3, h, w) in [0, 1], with the default preset and --set `changes`."""
    config = Config.load()
    for change in changes:
        config = config.with_layer(parse_set(change), f"flag --set {change}")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        for name, image in images.items():
            pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(source / f"{name}.png")
        summary = run(config, source, output)
        if summary.failed:
            raise SystemExit("\n".join(summary.lines()))
        return {
            name: torch.from_numpy(read(output / f"{name}.png").pixels.copy()).permute(2, 0, 1)[None] for name in images
        }


def row(name: str, what: str, values: tuple[float, ...], note: str = "") -> None:
    """Print one line of the table."""
    print(f"{name:18} {what:14}{values[0]:7.2f} {values[1]:7.4f} {values[2]:7.4f} {values[3]:8.4f} {note}", flush=True)


def photographs(pipe: StableDiffusionPipeline, upscaler: nn.Module, settings: list[str]) -> None:
    """Print the photographs' table and how it stands to the bars."""
    kinds = ("Lanczos", "upscaler", "VAE", "tilehires run")
    every: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
    print(f"{'photograph':18} {'':14}{'PSNR':>7} {'SSIM':>7} {'GMSD':>7} {'HaarPSI':>8}")
    changes = []
    truths = {name: photograph(name) for name in PHOTOGRAPHS}
    smalls = {name: rounded(functional.avg_pool2d(truth, 2)) for name, truth in truths.items()}
    results = runs(smalls, settings)
    for name, truth in truths.items():
        small, second = smalls[name], results[name]
        large = upscaler(small).clamp(0, 1)
        changes.append(float((second - large).abs().mean() * 255))
        images = (lanczos(small), large, decode(pipe, encode(pipe, truth)), second)
        for kind, image in zip(kinds, images, strict=True):
            every[kind].append(measures(image, truth))
            row(name, kind, every[kind][-1], f"changes {changes[-1]:.2f} of 255" if kind == "tilehires run" else "")
    table = {kind: np.array(values) for kind, values in every.items()}
    for kind in kinds:
        row("average", kind, tuple(table[kind].mean(0)))
    ahead = table["tilehires run"] - table["Lanczos"]
    gain = (table["upscaler"] - table["Lanczos"]).mean(0)[0]
    print(f"\nupscaler - Lanczos, average: {gain:+.2f} dB (bar +0.5)")
    print(f"VAE, average: {table['VAE'].mean(0)[0]:.2f} dB (bar 36)")
    print(f"tilehires run - Lanczos, median: {statistics.median(ahead[:, 0]):+.2f} dB (bar -1.0)")
    print(f"tilehires run changes the upscaler's output by {min(changes):.2f} of 255 at least (bar 0.5)")
    better = ahead[:, 1] > 0, ahead[:, 2] < 0, ahead[:, 3] > 0
    counts = ", ".join(f"{m} on {int(b.sum())}" for m, b in zip(("SSIM", "GMSD", "HaarPSI"), better, strict=True))
    medians = np.median(ahead, 0)
    print(f"tilehires run better than Lanczos, of {len(ahead)} photographs: {counts}")
    print(f"medians of the differences: SSIM {medians[1]:+.4f}, GMSD {medians[2]:+.4f}, HaarPSI {medians[3]:+.4f}")


def generate(
    pipe: StableDiffusionPipeline, texts: list[str], first: int, steps: int, guidance: float
) -> list[NDArray[np.uint8]]:
    """A native-size picture for each prompt, (128, 128, 3) uint8, with the seeds first, first + 1, and so on."""
    seeds = [torch.Generator().manual_seed(first + i) for i in range(len(texts))]
    done = pipe(texts, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="np")
    return list((done.images * 255).round().astype(np.uint8))


def prompts(pipe: StableDiffusionPipeline, seeds: int, steps: int, guidance: float, sheet: Path | None) -> None:
    """Print how often the asked colour and texture come out."""
    judge = fit()
    # 8 and 12 share a divisor, so the colours' turn slips by one after every round of textures.
    turns = [(seed * 5 + seed // len(NAMES)) % len(NAMES) for seed in range(seeds)]
    asked = [(NAMES[turn], TEXTURES[seed % len(TEXTURES)]) for seed, turn in enumerate(turns)]
    pictures: list[NDArray[np.uint8]] = []
    for first in range(0, seeds, 8):
        texts = [f"{name} {kind}" for name, kind in asked[first : first + 8]]
        pictures += generate(pipe, texts, first, steps, guidance)
    colours: list[bool] = []
    textures: dict[str, list[bool]] = {kind: [] for kind in TEXTURES}
    for (name, kind), picture in zip(asked, pictures, strict=True):
        colours.append(main_colour(picture) == name)
        textures[kind].append(judge.name(picture) == kind)
    if sheet:
        rows = [np.concatenate(pictures[i : i + 8], 1) for i in range(0, len(pictures) // 8 * 8, 8)]
        Image.fromarray(np.concatenate(rows)).save(sheet)
    hits = [hit for each in textures.values() for hit in each]
    print(f"\nprompts, {seeds} seeds, {steps} steps, guidance {guidance:g}:")
    print(f"asked colour is the main one: {100 * sum(colours) / seeds:.0f} % (bar 90)")
    print(
        f"asked texture is seen: {100 * sum(hits) / seeds:.0f} % (bar 70); the classifier itself names "
        f"{100 * judge.accuracy:.1f} % of true drawings rightly"
    )
    print("by texture: " + ", ".join(f"{kind} {sum(each)}/{len(each)}" for kind, each in textures.items()))


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("tilehires/builtin"))
    parser.add_argument("--set", action="append", default=[], help="a setting for `tilehires run`, repeatable")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--prompt-steps", type=int, default=20)
    parser.add_argument("--prompt-guidance", type=float, default=2.5)
    parser.add_argument("--sheet", type=Path, help="also save the prompts' pictures as one image")
    parser.add_argument("--skip-prompts", action="store_true")
    parser.add_argument("--skip-photos", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="piq")
    torch.set_num_threads(options.threads)
    pipe = load_pipeline(options.model / "model")
    if not options.skip_photos:
        photographs(pipe, load_upscaler(options.model / "upscale_2x.safetensors"), options.set)
    if not options.skip_prompts:
        prompts(pipe, options.seeds, options.prompt_steps, options.prompt_guidance, options.sheet)


if __name__ == "__main__":
    main()
