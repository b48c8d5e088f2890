"""The plan against what stages really hold on the device, and the slope of that peak against output pixels.

    python -m benchmarks.memory_peak            everything on fake CUDA tensors: no GPU, no numbers, real sizes
    python -m benchmarks.memory_peak --gpu      on a GPU, at budgets set by set_per_process_memory_fraction

Without a GPU, SD 1.5 and SDXL are built of fake tensors that say they are on CUDA (16 bit, random weights need no numbers),
and our own sampling loop runs on them, guided, in tiles: whatever it puts on "the device" is counted until it is freed.
Attention is counted as fused. Kernels' own workspaces aren't seen: SAFETY and RESERVE of tilehires/memory.py stand for them,
and the GPU mode prints what they would have to be on that machine. (The GPU mode has been run on none yet.)
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.memory import config_of, fused_attention
from tilehires.diffusion.family import SD1, SDXL, Family
from tilehires.geometry import Size
from tilehires.memory import GIB, RESERVE, SAFETY
from tilehires.tiling.engine import TiledDenoiser, expand
from tilehires.tiling.grid import TileGrid, elastic_grid
from tilehires.tiling.live import LiveBytes

OUTPUTS = (2048, 4096, 8192)
BATCHES = (1, 2, 4)
FACTOR = 8


def grid_of(family: Family, side: int) -> TileGrid:
    """As a pass of the family's own settings cuts a square of `side` pixels."""
    return elastic_grid(
        Size(side, side).divided(FACTOR),
        tile_max=family.tile_max // FACTOR,
        tile_min=family.tile_min // FACTOR,
        overlap=8,
        multiple=family.multiple,
        cost=family.cost,
    )


def one_evaluation(unet: Any, config: dict[str, Any], grid: TileGrid, batch: int, device: str) -> None:
    """One guided evaluation of the canvas as sampling.sample makes it: canvas on the host, tiles on the device."""
    added: dict[str, torch.Tensor] | None = None
    text = torch.zeros(2, 77, config["cross_attention_dim"], dtype=torch.float16)
    pooled = 0
    if config.get("addition_embed_type"):
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    x = torch.zeros(2, config["in_channels"], grid.canvas.height, grid.canvas.width)

    def call(tiles: torch.Tensor, boxes: Any) -> torch.Tensor:
        n, given = len(boxes), added
        if pooled:
            given = {
                "text_embeds": torch.zeros(2 * n, pooled, dtype=torch.float16, device=device),
                "time_ids": torch.zeros(2 * n, 6, dtype=torch.float16, device=device),
            }
        heard = expand(text.to(device), 2, n)
        t = torch.zeros((), dtype=torch.int64, device=device)
        return unet(tiles.to(device, torch.float16), t, heard, added_cond_kwargs=given).sample.float()

    with torch.no_grad():
        TiledDenoiser(grid, batch)(x, call)


def predicted(family: Family, grid: TileGrid, batch: int) -> int:
    """Work memory in bytes, without margins, as batch/needs.py counts it for guided tiles."""
    return int(2 * batch * grid.tile.pixels * family.bytes_per_cell)


def on_fake_tensors() -> None:
    print("UNet's work memory on fake CUDA tensors, guided, 16 bit: GiB measured / predicted without margins (ratio)")
    print(f"{'family':<8}{'output':>8}{'tile':>8}{'tiles':>7}" + "".join(f"{f'batch {b}':>24}" for b in BATCHES))
    for family in (SD1, SDXL):
        config = config_of(family)
        points: dict[int, list[tuple[int, float]]] = {batch: [] for batch in BATCHES}
        with FakeTensorMode(allow_non_fake_inputs=True):
            kind: Any = UNet2DConditionModel
            with torch.device("cuda"), half():
                unet = kind.from_config(config).eval()
            for side in OUTPUTS:
                grid, cells = grid_of(family, side), []
                # The tiles of one shape are all alike: the first rows of them are enough, whatever the canvas.
                part = TileGrid(grid.canvas, grid.tile, grid.xs, grid.ys[:1])
                for batch in BATCHES:
                    gc.collect()
                    with fused_attention(), LiveBytes("cuda") as counter:
                        evaluated(unet, config, part, batch)
                    want = predicted(family, grid, min(batch, len(grid.xs)))  # a row may hold fewer
                    points[batch].append((side * side, counter.peak / grid.tile.pixels))
                    cells.append(f"{counter.peak / GIB:.3f} / {want / GIB:.3f} ({counter.peak / want:.2f})")
                tile = grid.tile.width * FACTOR
                print(f"{family.name:<8}{side:>7}²{tile:>8}{len(grid.tiles):>7}" + "".join(f"{c:>24}" for c in cells))
        for batch, values in points.items():
            (a, low), (b, high) = values[0], values[-1]
            slope = (high - low) / (b - a)
            print(f"  {family.name}, batch {batch}: peak per tile cell, slope against output pixels {slope:+.2e} bytes")


def evaluated(unet: Any, config: dict[str, Any], grid: TileGrid, batch: int) -> None:
    """`one_evaluation`, for a first row of a canvas: what the accumulator misses of it is not asked for."""
    try:
        one_evaluation(unet, config, grid, batch, "cuda")
    except ValueError as error:
        if "never added" not in str(error):
            raise


@contextmanager
def half() -> Iterator[None]:
    """Parameters are made in 16 bit: fake ones can't be converted afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def on_gpu(budgets: tuple[int, ...]) -> None:
    """Random weights at real sizes, at each budget in GiB: what fits, its true peak, and the margins that would have done."""
    total = torch.cuda.get_device_properties(0).total_memory
    print(f"{torch.cuda.get_device_name(0)}; margins in use: work x {SAFETY} + {RESERVE / GIB:.1f} GiB")
    for family in (SD1, SDXL):
        config, kind = config_of(family), UNet2DConditionModel
        make: Callable[..., Any] = kind.from_config
        with torch.device("cuda"), half():
            unet = make(config).eval()
        weights = sum(value.numel() * value.element_size() for value in unet.parameters())
        for budget in budgets:
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget * GIB / total))
            for batch in BATCHES:
                grid = grid_of(family, 4096)
                work = predicted(family, grid, batch)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                try:
                    one_evaluation(unet, config, grid, batch, "cuda")
                except torch.OutOfMemoryError:
                    print(
                        f"{family.name:<6}{budget:>4} GiB, batch {batch}: out of memory, predicted work {work / GIB:.2f}"
                    )
                    continue
                reserved = torch.cuda.max_memory_reserved() - weights
                allocated = torch.cuda.max_memory_allocated() - weights
                print(
                    f"{family.name:<6}{budget:>4} GiB, batch {batch}: work {allocated / GIB:.2f} allocated, "
                    f"{reserved / GIB:.2f} reserved; predicted {work / GIB:.2f}, with margins "
                    f"{(work * SAFETY + RESERVE) / GIB:.2f}; needed: x {reserved / work:.2f}"
                )
        del unet
    torch.cuda.set_per_process_memory_fraction(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU")
    parser.add_argument("--budgets", default="4,8,12,24", help="GiB, separated by commas")
    given = parser.parse_args()
    if given.gpu:
        on_gpu(tuple(int(value) for value in given.budgets.split(",")))
    else:
        on_fake_tensors()


if __name__ == "__main__":
    main()
