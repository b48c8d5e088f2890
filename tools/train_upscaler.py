"""Train the 2x and 4x upscalers: spandrel's Compact architecture (SRVGGNetCompact), on area-downsampled drawings.

python -m tools.train_upscaler --scale 2
python -m tools.train_upscaler --scale 4     # starts from the 2x body
"""

from __future__ import annotations

from pathlib import Path

import torch
from spandrel.architectures.Compact import Compact
from torch.nn import functional

from tools.training import Run, arguments, crops, leaves, psnr

FEATURES, CONVOLUTIONS = 48, 8
RATE = 1.2e-3
STEPS = {2: 4000, 4: 1500}


def build(scale: int) -> Compact:
    """An untrained upscaler: (n, 3, h, w) in [0, 1] to (n, 3, scale h, scale w)."""
    torch.manual_seed(scale)
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=FEATURES, num_conv=CONVOLUTIONS, upscale=scale)


def start_from_2x(model: Compact, work: Path) -> None:
    """Give a 4x upscaler the 2x upscaler's weights in all layers but the last."""
    state = torch.load(work / "upscale_2x.pt", weights_only=True)["model"]
    last = f"body.{2 * CONVOLUTIONS + 2}."
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in state.items() if not k.startswith(last)}})


def train(scale: int, work: Path, steps: int) -> None:
    """Minimise L1 + 4 MSE between the upscaled area-downsampled crop and the crop."""
    model = build(scale)
    if scale == 4 and (work / "upscale_2x.pt").exists():
        start_from_2x(model, work)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.99))
    run = Run(work / f"upscale_{scale}x.pt", steps, RATE, optimizer, {"model": model}, seed=10 + scale)
    if run.finished():
        return
    images, held_out = leaves(work), leaves(work, train=False)[:40]
    size = 64 if scale == 2 else 96
    truth = torch.from_numpy(held_out).permute(0, 3, 1, 2) / 255
    for step, r in run.generators():
        target = crops(images, r, 16, size, [])
        output = model(functional.avg_pool2d(target, scale).contiguous(memory_format=torch.channels_last))
        run.update(functional.l1_loss(output, target) + 4 * functional.mse_loss(output, target))
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            with torch.no_grad():
                small = functional.avg_pool2d(truth, scale)
                ours = psnr(torch.cat([model(part) for part in small.split(8)]), truth)
                cubic = psnr(functional.interpolate(small, scale_factor=scale, mode="bicubic", antialias=False), truth)
            print(f"{scale}x validation {ours:.2f} dB, bicubic {cubic:.2f} dB", flush=True)


def main() -> None:
    """Command line."""
    options = arguments(__doc__ or "", scale=2, steps=0)
    torch.set_num_threads(options.threads)
    train(options.scale, options.work, options.steps or STEPS[options.scale])


if __name__ == "__main__":
    main()
