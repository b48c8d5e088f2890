"""A batch from the first file read to the last file written: how much of its time the models have, and what has the rest.

    python -m benchmarks.batch [--images 16] [--side 256] [--set SECTION.KEY=VALUE ...]

One `tilehires run` in this process over photographs of scikit-image, cut to squares, with the built-in model, after a
first run of one image that pays for imports and weights. Wall seconds of the main thread; what other threads and processes
do meanwhile (decoding the next image, writing the last) isn't in them, and is shown beside it as CPU seconds. "models" are the
denoiser and the VAE: the bar is 5 % outside of them. Then the same command again, over the folder that is finished.
"""

from __future__ import annotations

import argparse
import functools
import resource
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from skimage import data

from tilehires.batch import final, maker, runner
from tilehires.batch.store import Store
from tilehires.config import Config
from tilehires.images import Isolated
from tilehires.stages.check import CheckStage
from tilehires.tiling import vae
from tilehires.upscalers.model import ModelUpscaler

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


class Clock:
    """Wall seconds of the main thread by part; a part within a part counts for the inner one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return call(*arguments, **named)
            began = time.perf_counter()
            self._open.append(0.0)
            try:
                return call(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.spent[part] += took - self._open.pop()
                if self._open:
                    self._open[-1] += took

        return wrapped

    def watch(self, owner: Any, name: str, part: str) -> None:
        setattr(owner, name, self.timed(part, getattr(owner, name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="pixels of the inputs")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    asked = parser.parse_args()
    config = Config.load()
    for pair in asked.set:
        config = config.with_layer(*_layer(pair))
    clock = Clock()
    watch(clock)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder / "one", 1, asked.side)
        runner.run(config, folder / "one", folder / "warm")
        write_inputs(folder / "in", asked.images, asked.side)
        clock.spent.clear()
        wall, cpu = timed(lambda: runner.run(config, folder / "in", folder / "out"))
        models = clock.spent["denoiser"] + clock.spent["VAE"]
        print(
            f"{asked.images} images of {asked.side}², {wall:.1f} s, {cpu:.1f} s of CPU in this process and its children"
        )
        for part, seconds in sorted(clock.spent.items(), key=lambda item: -item[1]):
            print(f"  {part:<12}{seconds:8.2f} s  {seconds / wall:6.1%}")
        print(f"  {'the rest':<12}{wall - sum(clock.spent.values()):8.2f} s")
        print(f"outside the denoiser and the VAE: {1 - models / wall:.1%} (bar 5 %)")
        again, _ = timed(lambda: runner.run(config, folder / "in", folder / "out"))
        print(f"the same again, all finished: {again:.2f} s, {again / asked.images * 1000:.1f} ms an image")


def watch(clock: Clock) -> None:
    """Put the clock around the parts."""
    clock.watch(UNet2DConditionModel, "forward", "denoiser")
    clock.watch(vae, "encode", "VAE")
    clock.watch(vae, "decode_into", "VAE")
    clock.watch(ModelUpscaler, "upscale", "upscaler")
    clock.watch(CheckStage, "run", "checks")
    clock.watch(Store, "put", "cache")
    clock.watch(Isolated, "read", "decode")
    clock.watch(Isolated, "probe", "probe")
    clock.watch(Isolated, "preview", "previews")
    clock.watch(final, "write", "encode")
    clock.watch(runner, "report_of", "report")
    clock.watch(maker, "prepare", "prepare")


def write_inputs(folder: Path, count: int, side: int) -> None:
    """Squares of photographs, no two alike."""
    folder.mkdir()
    for number in range(count):
        picture = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])())
        left = 10 * (number // len(PHOTOGRAPHS))
        short = min(picture.size) - left
        picture.crop((left, left, left + short, left + short)).resize((side, side), Image.Resampling.LANCZOS).save(
            folder / f"{number:02}.png"
        )


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and the children that ended."""
    began, used = time.perf_counter(), _cpu()
    call()
    return time.perf_counter() - began, _cpu() - used


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _layer(pair: str) -> tuple[dict[str, dict[str, Any]], str]:
    key, _, value = pair.partition("=")
    section, _, name = key.partition(".")
    return {section: {name: value}}, "--set"


if __name__ == "__main__":
    main()
