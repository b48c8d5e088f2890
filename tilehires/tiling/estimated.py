"""AutoencoderKL on canvases whose activations no memory holds: tiles, under statistics and keys that all of them share.

Two kinds of layers see a whole canvas. GroupNorm's statistics and attention's keys are gathered in a coarse pass over
regions spread evenly over the canvas, and then held: every tile is normalised alike and attends to the same places, so
no tile has a tone of its own. All other layers have a bounded reach, which a halo covers exactly. What comes out doesn't
depend on how the canvas is cut; it differs from the exact answer by the sampling of the regions alone. That is measured
where it happens: a second, disjoint set of regions gives a second estimate, and some places are done with both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from tilehires.errors import ConfigError
from tilehires.geometry import OPEN, Box, Size, Wrap
from tilehires.tiling.halo import map_rows
from tilehires.tiling.planes import Planes
from tilehires.tiling.streamed import Shared, streamed

REGIONS = 36  # many small ones: what is near tells the same twice
CORE = 16  # cells a side of what counts of a region
MARGIN = 8  # cells around it, so that its own border doesn't count
PROBES = 4
TILE = 1024  # pixels a side of a tile, without its halo

Pass = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far two independent estimates lie apart where both were made, in the answer's unit; about twice the error."""

    rms: float
    most: float


def run(
    vae: AutoencoderKL,
    part: nn.Module,
    call: Pass,
    x: torch.Tensor | Planes,
    emit: Callable[[int, torch.Tensor], None],
    *,
    cells: Size,
    dtype: torch.dtype,
    strip_bytes: int,
    tile: int = TILE,
    wrap: Wrap = OPEN,
) -> Deviation:
    """`call` (which uses `part`, the VAE's encoder or decoder) over one canvas; `emit(row, strip)` as in `map_rows`.

    `x`: 1×C×H×W, `cells` enlarged by a whole factor. `wrap`: its axes that are rings. Returns how far off the answer may be.
    """
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    halo = -(-reach(part) // (x.shape[-1] // cells.width))
    first, second = (
        _gathered(vae, call, x, cells, dtype, strip_bytes, wrap, shifted=shifted) for shifted in (False, True)
    )
    with streamed(vae, strip_bytes, first):
        side, cpu = max(1, tile // factor), torch.device("cpu")
        map_rows(call, x, emit, cells=cells, reach=halo, tile=side, device=cpu, dtype=dtype, wrap=wrap)
    return _deviation(vae, call, x, cells, halo, dtype, strip_bytes, first, second)


def regions(cells: Size, *, shifted: bool = False) -> list[tuple[Box, Box]]:
    """Where the coarse pass looks: regions of one shape, and in each the core that counts, in the canvas's cells.

    One core in each field of an even division of the canvas: in its middle, or, `shifted`, off it by a quarter to
    either side in turn. A canvas that is no larger than all regions together is its own one region.
    """
    side = CORE + 2 * MARGIN
    if cells.pixels <= REGIONS * side**2:
        return [(Box.of(cells), Box.of(cells))]
    columns = min(max(1, round(math.sqrt(REGIONS * cells.width / cells.height))), REGIONS)
    rows = max(1, REGIONS // columns)
    found = []
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        offset = (0.25 if (row + column) % 2 else 0.75) if shifted else 0.5
        core = _around((column + offset) / columns, (row + offset) / rows, CORE, cells)
        found.append((_within(core.pad(MARGIN), cells), core))
    return found


def _around(x: float, y: float, side: int, cells: Size) -> Box:
    """A square around a place given in parts of the canvas, as much of it as fits."""
    left, top = int(x * cells.width) - side // 2, int(y * cells.height) - side // 2
    return _within(Box(left, top, left + side, top + side), cells)


def _within(box: Box, cells: Size) -> Box:
    """The box moved into the canvas, its size kept where the canvas is large enough."""
    width, height = min(box.width, cells.width), min(box.height, cells.height)
    left, top = min(max(box.x0, 0), cells.width - width), min(max(box.y0, 0), cells.height - height)
    return Box(left, top, left + width, top + height)


def _gathered(
    vae: AutoencoderKL,
    call: Pass,
    x: torch.Tensor | Planes,
    cells: Size,
    dtype: torch.dtype,
    strip_bytes: int,
    wrap: Wrap,
    *,
    shifted: bool,
) -> Shared:
    """What the regions say about the canvas."""
    scale, chosen = x.shape[-1] // cells.width, regions(cells, shifted=shifted)
    shared = Shared([core.shift(-seen.x0, -seen.y0) for seen, core in chosen], chosen[0][0].height)
    # A region is no ring, unless it is all of the canvas.
    with streamed(vae, strip_bytes, shared, wrap if chosen[0][0] == Box.of(cells) else OPEN):
        call(torch.cat([x[(..., *seen.scale(scale).slices)] for seen, _ in chosen]).to("cpu", dtype))
    return shared


def _deviation(
    vae: AutoencoderKL,
    call: Pass,
    x: torch.Tensor | Planes,
    cells: Size,
    halo: int,
    dtype: torch.dtype,
    strip_bytes: int,
    first: Shared,
    second: Shared,
) -> Deviation:
    """Both estimates at `PROBES` places of the canvas."""
    scale = x.shape[-1] // cells.width
    squares, most, count = 0.0, 0.0, 0
    for i in range(PROBES):
        core = _around((i % 2 + 0.5) / 2, (i // 2 + 0.5) / 2, CORE, cells)
        seen = core.pad(halo).clip(cells)
        answers = []
        for shared in (first, second):
            with streamed(vae, strip_bytes, shared):
                answer = call(x[(..., *seen.scale(scale).slices)].to("cpu", dtype)).float()
            answers.append(answer[(..., *core.shift(-seen.x0, -seen.y0).scale(answer.shape[-1] // seen.width).slices)])
        apart = (answers[0] - answers[1]).abs()
        squares, count = squares + float(apart.double().square().sum()), count + apart.numel()
        most = max(most, float(apart.max()))
    return Deviation(math.sqrt(squares / count), most)


def reach(part: nn.Module) -> int:
    """How many of its input's cells beyond each edge of a region decide that region of an encoder's or decoder's answer.

    Of layers with a bounded reach only, and for regions whose edges lie on multiples of the strides. Raises ConfigError
    for a layer whose reach isn't known.
    """
    needed = 0
    for layer in reversed(list(_layers(part))):
        if isinstance(layer, ResnetBlock2D):
            needed += 2
        elif isinstance(layer, Upsample2D):
            needed = (needed + 2) // 2
        elif isinstance(layer, Downsample2D):
            needed = 2 * needed + 1
        elif isinstance(layer, nn.Conv2d) and layer.stride == (1, 1) and layer.dilation == (1, 1):
            needed += (layer.kernel_size[0] - 1) // 2
        else:
            raise ConfigError(
                f"This VAE can't be estimated by tiles: how far its {type(layer).__name__} layers see isn't known.",
                hint="Use memory.vae = 'whole' or 'tiled'.",
            )
    return needed


def _layers(part: nn.Module) -> Iterator[nn.Module]:
    """The layers of an AutoencoderKL's encoder or decoder that see beyond a cell, in the order they run."""
    modules = dict(part.named_children())
    yield modules["conv_in"]
    for name in ("down_blocks", "mid_block", "up_blocks"):
        for block in _blocks(modules.get(name)):
            for inner in ("resnets", "downsamplers", "upsamplers"):
                yield from _blocks(dict(block.named_children()).get(inner))
    yield modules["conv_out"]


def _blocks(module: nn.Module | None) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList):
        yield from module
    elif module is not None:
        yield module
