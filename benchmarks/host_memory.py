"""Host memory of whole runs against the output's size: what a night needs of RAM, and how fast that grows.

    python -m benchmarks.host_memory                                  # 2048², 4096², 8192²
    python -m benchmarks.host_memory --sizes 16384 --input 4096       # the large render of docs/benchmarks.md
    python -m benchmarks.host_memory --vae kl --set memory.ram=2GB    # AutoencoderKL, with a budget that makes it estimate

Each size is one `tilehires run` in a process of its own, with random tiny models (Stable Diffusion 1.5's shape, 1 step)
and Lanczos, or what --set says. Its memory is read every 20 ms. "anonymous" is what only a swap could move out; the rest
of "resident" are pages of files (libraries, the cache, mapped canvases) which the kernel drops when others need them.
The slope counts anonymous memory beyond that of the first run, of 256², which is the libraries and the models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # the pictures are our own, and Pillow refuses 16384²

SMALLEST = 256


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures: seconds, and bytes at their highest."""

    side: int
    input: int
    seconds: float
    resident: int
    anonymous: int
    stages: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096, 8192], help="output sides in pixels")
    parser.add_argument("--input", type=int, default=0, help="input side; 0: a quarter of the output's")
    parser.add_argument("--vae", choices=("tiny", "kl"), default="tiny", help="AutoencoderTiny or AutoencoderKL")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as in tilehires run")
    parser.add_argument("--folder", type=Path, help="where to work, for runs of many GB; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "model", options.vae)
        base = measured(folder, checkpoint, SMALLEST, SMALLEST // 4, options.set)
        print(f"{'output':>12} {'input':>12} {'seconds':>9} {'resident':>10} {'anonymous':>10} {'MB per MP':>10}  vae")
        for side in [SMALLEST, *options.sizes]:
            run = (
                base
                if side == SMALLEST
                else measured(folder, checkpoint, side, options.input or side // 4, options.set)
            )
            slope = (run.anonymous - base.anonymous) / 1e6 / (side**2 / 1e6)
            print(
                f"{f'{side}x{side}':>12} {f'{run.input}x{run.input}':>12} {run.seconds:>9.1f} {run.resident / 1e6:>8.0f}MB "
                f"{run.anonymous / 1e6:>8.0f}MB {slope:>10.2f}  {run.stages}",
                flush=True,
            )


def measured(folder: Path, checkpoint: Path, side: int, source: int, settings: list[str]) -> Run:
    """Run one image to `side`, and watch."""
    inputs, output = folder / f"in{side}", folder / f"out{side}"
    write_picture(inputs / "picture.png", source)
    words = [
        "run",
        str(inputs),
        "-o",
        str(output),
        "--checkpoint",
        str(checkpoint),
        "--scale",
        str(side / source),
        "-q",
    ]
    words += ["--steps", "1", "--denoise", "0.3", "--set", "generate.cfg=1", "--set", "hires.upscaler=Lanczos"]
    words += ["--set", "hires.max_canvas=1024", *(word for value in settings for word in ("--set", value))]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "tilehires", *words])
    anonymous = resident = 0
    while process.poll() is None:
        now = status(process.pid)
        anonymous, resident = max(anonymous, now.get("RssAnon", 0)), max(resident, now.get("VmRSS", 0))
        time.sleep(0.02)
    seconds = time.monotonic() - began
    if process.returncode not in (0, 4):
        raise SystemExit(f"the run of {side} ended with {process.returncode}")
    (image,) = json.loads((output / "report" / "report.json").read_text())["images"]
    with Image.open(output / image["output"]["path"]) as made:
        if made.size != (side, side):
            raise SystemExit(f"the output is {made.size}, not {side}x{side}")
    facts = [(stage["name"], stage["facts"]) for stage in image["stages"] if "vae_mode" in stage["facts"]]
    return Run(side, source, seconds, resident, anonymous, ", ".join(f"{name}: {f['vae_mode']}" for name, f in facts))


def status(pid: int) -> dict[str, int]:
    """Bytes by name from /proc (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    rows = (line.split() for line in lines if line.endswith("kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


def write_picture(path: Path, side: int) -> None:
    """Gradients, waves and grain: nothing in it is flat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    waves = [0.5 + 0.3 * np.sin(20 * x + c) * np.cos(13 * y - c) + 0.1 * (x - y) for c in range(3)]
    grain = np.random.default_rng(0).normal(0, 0.02, (side, side, 3)).astype(np.float32)
    Image.fromarray((np.clip(np.stack(waves, -1) + grain, 0.05, 0.95) * 255).astype(np.uint8)).save(path)


def write_checkpoint(folder: Path, vae: str) -> Path:
    """A random SD 1.5 pipeline, as small as its shape allows: its work must not hide that of moving pixels."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from tests import tiny

    torch.manual_seed(0)
    pipe = tiny.sd15()
    unet: Any = UNet2DConditionModel
    kl: Any = AutoencoderKL
    pipe.unet = unet(
        sample_size=8,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    widths, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
    if vae == "tiny":
        pipe.vae = AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        ).eval()
    else:
        pipe.vae = kl(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        ).eval()
    return tiny.write_folder(pipe, folder)


if __name__ == "__main__":
    main()
