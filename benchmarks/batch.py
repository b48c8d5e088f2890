"""A batch from the first file read to the last file written: how much of its time the models have, and what has the rest.

    python -m benchmarks.batch [--images 16] [--side 256] [--sd1] [--set SECTION.KEY=VALUE ...]

One `tilehires run` in this process over photographs of scikit-image, cut to squares, with the built-in model or with one of
Stable Diffusion 1's size and random weights, after a first run of one image that pays for imports and weights. Seconds of the
main thread, by the clock and of the CPU (with OMP_NUM_THREADS=1 all that the models take; on a busy machine read these). What
other threads and processes do meanwhile (decoding the next image, writing the last) isn't in them, only in the total. The bar
is 5 % outside the denoiser and the VAE. Then the same command again, over the folder that is finished.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from skimage import data
from transformers import CLIPTextConfig, CLIPTextModel

from tilehires.batch import final, maker, runner
from tilehires.batch.store import Store
from tilehires.config import Config
from tilehires.diffusion.header import CONFIGS
from tilehires.diffusion.vocabulary import clip_tokenizer
from tilehires.images import Isolated
from tilehires.stages.check import CheckStage
from tilehires.tiling import vae
from tilehires.upscalers.model import ModelUpscaler

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


@dataclass
class Spent:
    """Seconds of the main thread: by the clock, and of the CPU."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.thread_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def row(self, part: str, whole: Spent) -> str:
        wall, cpu = self.wall / whole.wall, self.cpu / whole.cpu
        return f"  {part:<12}{self.wall:8.2f} s  {wall:6.1%}{self.cpu:10.2f} s  {cpu:6.1%}"


class Clock:
    """Seconds of the main thread by part; a part within a part counts for the inner one."""

    def __init__(self) -> None:
        self.spent: dict[str, Spent] = defaultdict(Spent)
        self._open: list[Spent] = []

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return call(*arguments, **named)
            began = Spent.now()
            self._open.append(Spent())
            try:
                return call(*arguments, **named)
            finally:
                took = Spent.now() - began
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
    parser.add_argument("--sd1", action="store_true", help="a model of Stable Diffusion 1's size, with random weights")
    asked = parser.parse_args()
    config = Config.load()
    for pair in asked.set:
        config = config.with_layer(*_layer(pair))
    clock = Clock()
    watch(clock)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.sd1:
            config = config.with_layer({"model": {"checkpoint": str(random_sd1(folder / "model"))}}, "--sd1")
        write_inputs(folder / "one", 1, asked.side)
        runner.run(config, folder / "one", folder / "warm")
        write_inputs(folder / "in", asked.images, asked.side)
        clock.spent.clear()
        whole, cpu = timed(lambda: runner.run(config, folder / "in", folder / "out"))
        print(f"{asked.images} images of {asked.side}², {cpu:.1f} s of CPU in this process and its children")
        show(clock, whole)
        again, _ = timed(lambda: runner.run(config, folder / "in", folder / "out"))
        print(f"the same again, all finished: {again.wall:.2f} s, {again.wall / asked.images * 1000:.1f} ms an image")


def show(clock: Clock, whole: Spent) -> None:
    """The table of a run that took so long in all."""
    print(f"  {'':<12}{'main thread, clock':>18}{'its CPU':>20}")
    for part, spent in sorted(clock.spent.items(), key=lambda item: -item[1].cpu):
        print(spent.row(part, whole))
    print((whole - sum(clock.spent.values(), Spent())).row("the rest", whole))
    print(whole.row("in all", whole))
    outside = whole - clock.spent["denoiser"] - clock.spent["VAE"]
    others = outside - clock.spent["upscaler"]
    for what, spent in (("the denoiser and the VAE", outside), ("these and the upscaler", others)):
        print(f"outside {what}: {spent.wall / whole.wall:.1%}, of CPU seconds {spent.cpu / whole.cpu:.1%}")
    print("bar: 5 % outside the denoiser and the VAE")


def random_sd1(folder: Path) -> Path:
    """A diffusers folder of Stable Diffusion 1's sizes, in 16 bit, whose weights are random and mean nothing."""
    shutil.copytree(CONFIGS / "sd1", folder)
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    text.half().save_pretrained(folder / "text_encoder")
    for name, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        config: dict[str, Any] = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        model: Any = kind.from_config(config)
        model.half().save_pretrained(folder / name)
    return folder


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


def timed(call: Callable[[], object]) -> tuple[Spent, float]:
    """Seconds of the main thread, and CPU seconds of this process and the children that ended."""
    began, used = Spent.now(), _cpu()
    call()
    return Spent.now() - began, _cpu() - used


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
