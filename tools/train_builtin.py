"""Make the package's built-in model from nothing: draw, train, export. Each step resumes where it was interrupted.

    python -m tools.train_builtin [--work /tmp/train] [--threads 2] [--to tilehires/builtin]
    python -m benchmarks.quality

From the repository's root; needs the package's dependencies and about 6 GB of memory and of disk under --work. Seeds
and numbers of steps are fixed; on two cores of a server expect one to two hours. --quick runs a few steps of
everything, to see that it works.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from tools import export, train_unet, train_upscaler, train_vae
from tools.training import LEAVES_ALL, render


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/train"), help="data and checkpoints [/tmp/train]")
    parser.add_argument("--to", type=Path, default=Path("tilehires/builtin"), help="[tilehires/builtin]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--quick", action="store_true", help="4 steps of each: a trial of the machinery")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = options.work
    work.mkdir(parents=True, exist_ok=True)

    def steps(number: int) -> int:
        return 4 if options.quick else number

    render(work, "leaves", "dl", LEAVES_ALL)
    render(work, "captioned", "cap", train_unet.CAPTIONED)
    train_upscaler.train(2, work, steps(train_upscaler.STEPS[2]))
    train_vae.train(work, 1, steps(train_vae.STEPS[1]))
    train_vae.train(work, 2, steps(train_vae.STEPS[2]))
    train_upscaler.train(4, work, steps(train_upscaler.STEPS[4]))
    train_unet.prepare(work)
    train_unet.train(work, steps(train_unet.STEPS))
    export.export(work, options.to)


if __name__ == "__main__":
    main()
