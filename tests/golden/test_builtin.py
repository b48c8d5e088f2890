"""What the shipped weights must be able to do, on drawings that training never used. benchmarks/quality.py has photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tilehires import upscalers
from tilehires.cli import main
from tilehires.diffusion import checkpoints
from tilehires.diffusion.bay import Bay
from tilehires.geometry import Size
from tilehires.images import read
from tools.draw import dead_leaves

SEED = 770_000
BUILTIN = Path(checkpoints.__file__).parents[1] / "builtin"


def psnr(images: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """Decibels over all pixels of float images in [0, 1].

    Over all together: the mean of each one's would be ruled by blurred drawings, which have no detail to restore.
    """
    return float(-10 * np.log10(np.mean([np.mean((a - b) ** 2) for a, b in zip(images, truths, strict=True)])))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """(half size by area, full size), float32 in [0, 1]."""
    truths = [dead_leaves(SEED, i, 192).astype(np.float32) / 255 for i in range(4)]
    return [(cv2.resize(truth, (96, 96), interpolation=cv2.INTER_AREA), truth) for truth in truths]


@pytest.fixture(scope="module")
def lanczos(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    kernel = upscalers.resolve("Lanczos")
    return psnr([kernel.upscale(small, Size(192, 192)) for small, _ in pairs], [truth for _, truth in pairs])


def test_weights_are_small() -> None:
    size = sum(path.stat().st_size for path in BUILTIN.rglob("*.safetensors"))
    assert size <= 24 * 2**20, f"{size / 2**20:.1f} MB of weights: the package may carry 24"


def test_upscaler_beats_lanczos(pairs: list[tuple[np.ndarray, np.ndarray]], lanczos: float) -> None:
    model = upscalers.resolve("builtin")
    made = psnr([model.upscale(small, Size(192, 192)) for small, _ in pairs], [truth for _, truth in pairs])
    assert made > lanczos + 0.5, f"upscaler {made:.2f} dB, Lanczos {lanczos:.2f} dB: were the weights damaged?"


def test_vae_keeps_the_picture(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    import torch

    from tilehires.tiling import vae

    model = Bay().diffusion(checkpoints.inspect("builtin")).vae
    for _, truth in pairs:
        planes = torch.from_numpy(truth.transpose(2, 0, 1).copy())[None] * 2 - 1
        back = vae.decode(model, vae.encode(model, planes, mode="whole"), mode="whole")
        made = psnr([((back[0].numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)], [truth])
        assert made > 34, f"the VAE gives back {made:.1f} dB: every second pass is bounded by that"


def test_second_pass_changes_the_picture_for_no_worse(
    pairs: list[tuple[np.ndarray, np.ndarray]], lanczos: float, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for i, (small, _) in enumerate(pairs):
        Image.fromarray((small * 255 + 0.5).astype(np.uint8)).save(tmp_path / "in" / f"{i}.png")
    for name, more in (("run", []), ("upscaled", ["--denoise", "0"])):
        with pytest.raises(SystemExit) as ended:
            main(["run", str(tmp_path / "in"), "-o", str(tmp_path / name), "-q", *more])
        assert ended.value.code == 0
    made, plain = (
        [read(tmp_path / name / f"{i}.png").pixels for i in range(len(pairs))] for name in ("run", "upscaled")
    )
    changes = [float(np.abs(a - b).mean() * 255) for a, b in zip(made, plain, strict=True)]
    assert min(changes) > 0.5, f"the second pass changes the upscaler's picture by {changes} of 255: it does nothing"
    result = psnr(made, [truth for _, truth in pairs])
    assert result > lanczos - 1, f"run {result:.2f} dB, Lanczos {lanczos:.2f} dB"
