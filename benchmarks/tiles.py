"""The tile engine's speed: work of its grid, its own overhead, against the peers' way, and against the machine's floor.

    python -m benchmarks.tiles [--side 256] [--repeats 5] [--threads 1]

Four tables, one run, nothing written:
1. Work factor R = cells computed ÷ cells of the canvas, of our grid and of those of the peers. Integers, no model.
2. CPU time of a whole pass (upscale, encode, sample, decode, blend, lock) through the stage that `tilehires run` uses,
   and the share of it outside the denoiser, the VAE and the upscaler.
3. The same pass the peers' way: every tile encoded, sampled and decoded by itself and blended, with the same tiles,
   model, sampler and steps; and with the half-tile and intersection passes that they hide seams with. Beside the time:
   z of the seam checks (benchmarks/seams.py), from pseudo-boundaries; the further above 3, the plainer the grid.
4. Floor: FLOPs counted in the pass ÷ FLOP/s of one large matmul of this run.
Times are CPU seconds of this process, medians of interleaved repeats: what else the machine does hardly shifts them.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.seams import INPUTS, judge
from tilehires import upscalers
from tilehires.checks import seam_sharpness, seam_tone
from tilehires.config import Config
from tilehires.diffusion import checkpoints, noise, prompts, samplers, sampling
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.family import SD1, SDXL, Family
from tilehires.geometry import Box, Size
from tilehires.memory import Plan
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.order import stages_of
from tilehires.stages.redenoise import PassStage
from tilehires.stages.route import route
from tilehires.tiling import vae
from tilehires.tiling.accumulator import Accumulator
from tilehires.tiling.grid import TileGrid, elastic_grid

OUTPUTS = (
    *((1536, 1536), (2048, 2048), (2560, 1440), (3072, 3072), (3840, 2160), (4096, 3200), (4096, 4096)),
    *((6144, 4096), (8192, 8192), (12288, 8192), (16384, 9216), (16384, 16384)),
)
CELL = 8
TILE, OVERLAP = 256, 64  # of tables 2 to 4, in pixels
DENOISE, STEPS = 0.3, 4


def fixed_work(canvas: Size, tile: int, overlap: int) -> float:
    """R of a grid of tiles of one size, stepped by tile − overlap, the last one pushed back to the edge."""
    counts = [1 if side <= tile else -(-(side - overlap) // (tile - overlap)) for side in (canvas.width, canvas.height)]
    covered = [min(tile, side) for side in (canvas.width, canvas.height)]
    return counts[0] * counts[1] * covered[0] * covered[1] / canvas.pixels


def our_work(canvas: Size, tile: int, overlap: int) -> float:
    """R of ours with at most that tile and at least that overlap; all in cells."""
    return elastic_grid(canvas, tile_max=tile, overlap=overlap).work


def family_work(canvas: Size, family: Family) -> tuple[float, float]:
    """R of the grid a run takes with the family's range of tiles and 64 pixels of overlap, and its TFLOP a step."""
    grid = elastic_grid(
        canvas, tile_min=family.tile_min // CELL, tile_max=family.tile_max // CELL, overlap=64 // CELL, cost=family.cost
    )
    return grid.work, len(grid.tiles) * family.cost(grid.tile.width, grid.tile.height)


def work_table() -> None:
    """Print R for a range of outputs."""
    print("1. Work factor R, tile/overlap in pixels (Tiled Diffusion 96/48 in latent cells); TFLOP of one SDXL step")
    heads = (
        "512/64 fixed",
        "ours",
        "1024/128 fixed",
        "ours",
        "Tiled Diff.",
        "SD1 run",
        "SDXL run",
        "TFLOP",
        "of 1024/128",
    )
    print(f"{'output':>13}" + "".join(f"{head:>15}" for head in heads))
    for output in OUTPUTS:
        canvas = Size(*output).ceil_to(64).divided(CELL)
        sdxl, flops = family_work(canvas, SDXL)
        fixed = fixed_work(canvas, 128, 16)
        values = (
            *(fixed_work(canvas, 64, 8), our_work(canvas, 64, 8), fixed, our_work(canvas, 128, 16)),
            *(fixed_work(canvas, 96, 48), family_work(canvas, SD1)[0], sdxl, flops),
            fixed * canvas.pixels / 128**2 * SDXL.cost(128, 128),
        )
        print(f"{Size(*output)!s:>13}" + "".join(f"{value:15.2f}" for value in values))


class Clock:
    """CPU seconds spent inside of modules, by a name given to each."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def watching(self, **modules: nn.Module) -> Iterator[None]:
        """Count every call of these modules inside."""
        handles, began = [], {}
        for name, module in modules.items():
            kind = name.split("_")[0]

            def start(*_: object, name: str = name) -> None:
                began[name] = time.process_time()

            def stop(*_: object, name: str = name, kind: str = kind) -> None:
                self.spent[kind] = self.spent.get(kind, 0.0) + time.process_time() - began[name]

            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class Bench:
    """The built-in model, its pass as `tilehires run` would do it, and an input."""

    stage: PassStage
    model: Diffusion
    bay: Bay
    image: np.ndarray

    @classmethod
    def make(cls, side: int) -> Bench:
        config = Config.load().with_layer(
            {
                "hires": {"max_canvas": 256, "denoise": DENOISE, "steps": STEPS, "seed": 1},
                "tiled": {"tile_min": TILE, "tile_max": TILE, "overlap": OVERLAP},
            },
            "benchmark",
        )
        checkpoint = checkpoints.inspect("builtin")
        settings = config.for_family(checkpoint.family.name).settings
        way = route(Size(side, side), settings.hires, max_pixels=settings.run.max_pixels)
        stage = stages_of(settings, way, 1, checkpoint)[0]
        if not isinstance(stage, PassStage):
            raise TypeError("the first stage is no pass")
        bay = Bay()
        image = np.round(INPUTS["portrait"](side) * 255).astype(np.float32) / 255
        return cls(stage, bay.diffusion(checkpoint), bay, image)

    @property
    def grid(self) -> TileGrid:
        return self.stage.grid(self.model.vae_factor)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The models, as Clock names them."""
        upscaler = self.bay.upscaler(upscalers.files(self.stage.settings.values.upscaler)[0])
        coders = {"VAE_encoder": self.model.vae.encoder, "VAE_decoder": self.model.vae.decoder}
        return {"denoiser": self.model.unet, **coders, "upscaler": upscaler.model}

    def ours(self) -> np.ndarray:
        """The whole stage."""
        tools = Tools(self.bay, Plan(1, "resident", (), 0), Silent())
        return np.asarray(self.stage.run(StageResult(self.image), Source(self.image), tools).pixels)

    def theirs(self, *, seams_fixed: bool) -> np.ndarray:
        """Every tile on its own. `seams_fixed`: half-tile and intersection passes after it."""
        size, factor = self.stage.settings.size, self.model.vae_factor
        canvas = upscalers.resolve(self.stage.settings.values.upscaler, self.bay).upscale(self.image, size)
        condition = prompts.encode(self.model, "", "", guided=False)
        grid = self.grid.scaled(factor)
        padded = np.pad(
            canvas, ((0, grid.canvas.height - size.height), (0, grid.canvas.width - size.width), (0, 0)), "symmetric"
        )
        accumulator = Accumulator.image(grid, 3)
        for tile in grid.tiles:
            accumulator.add(tile, self._alone(padded[tile.box.slices], condition))
        padded = accumulator.result()
        for box in seam_boxes(grid) if seams_fixed else ():
            mask = pyramid(box.size)[..., None]
            redrawn = self._alone(padded[box.slices], condition)
            padded[box.slices] += mask * (redrawn - padded[box.slices])
        return padded[: size.height, : size.width].clip(0, 1)

    def _alone(self, pixels: np.ndarray, condition: prompts.Conditioning) -> np.ndarray:
        """Image to image of one tile; every tile gets the same noise, as there."""
        values = self.stage.settings.values
        planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None] * 2 - 1
        made = sampling.sample(
            self.model,
            condition,
            vae.encode(self.model.vae, planes, mode="whole"),
            scheduler=samplers.make(values.sampler, values.scheduler, self.model.scheduler_config),
            steps=self.stage.steps,
            cfg=values.cfg,
            noise=noise.CanvasNoise(1, "tile"),
            size=Size(pixels.shape[1], pixels.shape[0]),
        )
        planes = vae.decode(self.model.vae, made.latents, mode="whole")
        return (planes[0].numpy().transpose(1, 2, 0) + 1) / 2


def seam_boxes(grid: TileGrid) -> list[Box]:
    """Tiles over every seam between two tiles, then over every corner where four meet."""
    xs, ys, tile = grid.xs, grid.ys, grid.tile
    between_x = [(a + b) // 2 for a, b in pairwise(xs)]
    between_y = [(a + b) // 2 for a, b in pairwise(ys)]
    starts = [(x, y) for y in ys for x in between_x]
    starts += [(x, y) for y in between_y for x in xs]
    starts += [(x, y) for y in between_y for x in between_x]
    even = [(x // 2 * 2, y // 2 * 2) for x, y in starts]
    return [Box(x, y, x + tile.width, y + tile.height) for x, y in even]


def pyramid(size: Size) -> np.ndarray:
    """A mask of 1 in the middle that falls to 0 at the edges in straight lines."""
    axes = [1 - abs((np.arange(side) + 0.5) * 2 / side - 1) for side in (size.height, size.width)]
    return np.minimum(1, 2 * np.multiply.outer(*axes)).astype(np.float32)


def spent(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def overhead_table(bench: Bench, repeats: int) -> None:
    """Print where a pass's CPU time goes."""
    rows: dict[str, list[float]] = {}
    for _ in range(repeats):
        clock = Clock()
        with clock.watching(**bench.parts):
            total = spent(bench.ours)
        for name, value in (*clock.spent.items(), ("total", total)):
            rows.setdefault(name, []).append(value)
        rows.setdefault("outside", []).append(total - sum(clock.spent.values()))
    share = statistics.median(a / b for a, b in zip(rows["outside"], rows["total"], strict=True))
    print(f"\n2. CPU seconds of one pass to {bench.stage.settings.size}, {len(bench.grid.tiles)} tiles, {STEPS} steps")
    print("   " + ", ".join(f"{name} {statistics.median(values):.3f}" for name, values in rows.items()))
    print(f"   outside denoiser, VAE and upscaler: {100 * share:.2f} % (bar 3 %)")


def contest_table(bench: Bench, repeats: int) -> None:
    """Print our pass and the peers' in turn."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours": bench.ours,
        "each tile by itself": lambda: bench.theirs(seams_fixed=False),
        "with half tiles + intersections": lambda: bench.theirs(seams_fixed=True),
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    results: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            clock, began = Clock(), time.process_time()
            with clock.watching(**bench.parts):
                results[name] = way()
            times[name].append(clock.spent | {"all": time.process_time() - began})
    scaled = bench.grid.scaled(bench.model.vae_factor)
    counts = {name: len(scaled.tiles) for name in ways}
    counts["with half tiles + intersections"] += len(seam_boxes(scaled))
    size = bench.stage.settings.size
    boxes = [tile.box.clip(size) for tile in scaled.tiles]
    print(
        f"\n3. CPU seconds of one pass to {size}; tile {scaled.tile}, overlap at least {OVERLAP}, R {scaled.work:.2f}"
    )
    heads = ("tiles", "denoiser", "VAE", "all", "÷ ours", "z tone", "z sharpness")
    print(f"   {'':32}" + "".join(f"{head:>12}" for head in heads))
    for name in ways:
        seconds = {part: statistics.median(each[part] for each in times[name]) for part in ("denoiser", "VAE", "all")}
        ratio = statistics.median(a["all"] / b["all"] for a, b in zip(times[name], times["ours"], strict=True))
        z = [judge(results[name], bench.image, boxes, check)[1] for check in (seam_tone, seam_sharpness)]
        cells = "".join(f"{value:12.2f}" for value in (*seconds.values(), ratio, *z))
        print(f"   {name:32}{counts[name]:12}{cells}", flush=True)
    print("   bars: at least 1.00 for each tile by itself, at least 1.50 with half tiles + intersections")


def floor_table(bench: Bench, repeats: int) -> None:
    """Print the pass's time over the least this machine could take for its FLOPs."""
    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    with FlopCounterMode(display=False) as counter:
        bench.ours()
    flops = counter.get_total_flops()
    ratios, peaks = [], []
    torch.mm(a, b)
    for _ in range(repeats):
        peaks.append(2 * side**3 / spent(lambda: torch.mm(a, b)))
        ratios.append(spent(bench.ours) / (flops / peaks[-1]))
    print(
        f"\n4. {flops / 1e9:.0f} GFLOP counted; one {side}² matmul runs at {statistics.median(peaks) / 1e9:.0f} GFLOP/s"
    )
    print(f"   achieved ÷ floor: {statistics.median(ratios):.2f}")


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="pixels a side of the input; the pass goes to twice that")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {asked.threads} thread(s)\n")
    work_table()
    bench = Bench.make(asked.side)
    bench.ours()  # loads, warms up
    overhead_table(bench, asked.repeats)
    contest_table(bench, asked.repeats)
    floor_table(bench, asked.repeats)


if __name__ == "__main__":
    main()
