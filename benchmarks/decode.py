"""What decoding in a process of its own costs: the same files read within the run and beside it, in turns.

python benchmarks/decode.py [--side 4096] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tilehires.images import InProcess, Isolated, Picture, write


def photograph(side: int) -> np.ndarray:
    """Smooth shapes with grain, float32: what compresses like a photograph."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    waves = [0.5 + 0.3 * np.sin(9 * x * (c + 1) + c) * np.cos(7 * y) for c in range(3)]
    grain = np.random.default_rng(0).normal(0, 0.01, (side, side, 1)).astype(np.float32)
    return np.clip(np.stack(waves, -1) + grain, 0, 1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Isolated() as beside:
        files = {name: Path(folder) / name for name in ("8 bit.png", "16 bit.png", "8 bit.jpeg")}
        pixels = photograph(asked.side)
        for name, path in files.items():
            write(path, Picture(pixels), format=path.suffix[1:], bits=name.split()[0])  # type: ignore[arg-type]
        Image.new("RGB", (8, 8)).save(Path(folder) / "small.png")
        began = time.perf_counter()
        beside.probe(Path(folder) / "small.png")
        print(f"starting the process: {time.perf_counter() - began:.2f} s\n")
        print(f"{asked.side} x {asked.side}  within   beside   ratio (medians of {asked.repeats}, in turns)")
        for name, path in [*files.items(), ("small.png", Path(folder) / "small.png")]:
            took: dict[str, list[float]] = {"within": [], "beside": []}
            for _ in range(asked.repeats):
                for where, decoder in (("within", InProcess()), ("beside", beside)):
                    began = time.perf_counter()
                    decoder.read(path)
                    took[where].append(time.perf_counter() - began)
            within, apart = statistics.median(took["within"]), statistics.median(took["beside"])
            print(f"{name:<11}  {within:.4f} s {apart:.4f} s  {apart / within:.2f}")


if __name__ == "__main__":
    main()
