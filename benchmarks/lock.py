"""What the low-frequency lock does to photographs: the drift of broad tones, and the likeness to the truth, with and without.

    python -m benchmarks.lock [--denoise 0.05 0.2 0.35 0.5 0.7] [--lock 0 1] [--side 256]

Run from the repository's root. Each photograph's middle, `side` pixels square, is halved by area and brought back to its size by
`tilehires run` at 2x with the default preset. Printed per denoise and lock, as means over the photographs: "drift", the mean
ΔE2000 between the output and the upscaled input, both blurred with σ = 16 px; PSNR against the photograph.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage.color
import skimage.data
from PIL import Image

from tilehires import run
from tilehires.config import Config, parse_set
from tilehires.images import read

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
SIGMA = 16.0


def photograph(name: str, side: int) -> np.ndarray:
    """The middle of a test photograph, float32 in [0, 1]."""
    pixels = getattr(skimage.data, name)()[..., :3]
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side].astype(np.float32) / 255


def drift(output: np.ndarray, reference: np.ndarray) -> float:
    """Mean ΔE2000 of the two, blurred."""
    blurred = [skimage.color.rgb2lab(cv2.GaussianBlur(image, (0, 0), SIGMA)) for image in (output, reference)]
    return float(skimage.color.deltaE_ciede2000(*blurred).mean())


def rendered(folder: Path, output: Path, *settings: str) -> dict[str, np.ndarray]:
    config = Config.load()
    for words in ("generate.seed=1", *settings):
        config = config.with_layer(parse_set(words), "benchmark")
    run(config, folder, output)
    return {path.stem: read(path).pixels for path in sorted(output.glob("*.png"))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--denoise", type=float, nargs="+", default=[0.05, 0.2, 0.35, 0.5, 0.7])
    parser.add_argument("--lock", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--side", type=int, default=256)
    given = parser.parse_args()
    truths = {name: photograph(name, given.side) for name in PHOTOGRAPHS}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "in")
        folder.mkdir()
        for name, pixels in truths.items():
            half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            Image.fromarray((half * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
        plain = rendered(folder, Path(root, "plain"), "hires.denoise=0")
        print("denoise  lock   drift dE   PSNR dB")
        for denoise in given.denoise:
            for lock in given.lock:
                made = rendered(
                    folder, Path(root, f"{denoise}-{lock}"), f"hires.denoise={denoise}", f"hires.lock={lock}"
                )
                away = np.mean([drift(made[name], plain[name]) for name in made])
                error = np.mean([np.mean((made[name] - truths[name]) ** 2) for name in made])
                print(f"{denoise:7.2f}  {lock:4.1f}  {away:8.3f}  {-10 * np.log10(error):8.2f}")


if __name__ == "__main__":
    main()
