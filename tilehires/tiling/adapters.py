"""One adapter per denoiser family: where the canvas is, how a batch of tiles is asked for, how the answer is packed.

An adapter knows a model's `forward` by its argument names and nothing of pipelines. Positions are tile-local: every
tile is asked for as if it were a picture of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling.engine import cut, expand, mirrored

Arguments = dict[str, Any]
PLAIN = "Use the family's plain text or image pipeline."


@dataclass(frozen=True)
class View:
    """What an adapter may need to know: SDXL's size conditions ("tile", "global", "crop"), and pixels per cell."""

    time_ids: str = "tile"
    pixels: int = 8


@dataclass(frozen=True)
class SD3:
    """B×C×H×W latents, patches of two; block residuals of a ControlNet as tokens. Also the pattern for the others."""

    multiple: int = 2
    cells_per_token: int = 2
    canvas_name: str = "hidden_states"
    shared: frozenset[str] = field(default_factory=lambda: frozenset({"return_dict", "skip_layers"}))

    def canvas(self, arguments: Arguments) -> torch.Tensor:
        """The whole canvas, B×C×…×H×W in cells."""
        return arguments[self.canvas_name]

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        """The arguments that ask for `tiles`, (B·n)×C×…×h×w, which lie at `boxes` of a canvas of `size` cells."""
        batch = len(tiles) // len(boxes)
        asked = {k: v if k in self.shared else expand(v, batch, len(boxes)) for k, v in arguments.items()}
        if arguments.get("block_controlnet_hidden_states") is not None:
            tokens = arguments["block_controlnet_hidden_states"]
            asked["block_controlnet_hidden_states"] = [cut_tokens(t, boxes, size, self.cells_per_token) for t in tokens]
        return asked | {self.canvas_name: tiles}

    def unpack(self, answer: Any, tile: Size) -> torch.Tensor:
        """The model's answer for tiles of `tile` cells as (B·n)×C×…×h×w."""
        return answer

    def pack(self, canvas: torch.Tensor) -> Any:
        """A canvas as the model would have answered it."""
        return canvas

    def mu(self, tokens: int, steps: int, config: Mapping[str, Any]) -> float:
        """What the family's pipelines tell a scheduler with such a `config` of an image of `tokens` tokens: its shift.

        A line through two points (calculate_shift in diffusers' pipelines).
        """
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        slope = (high - low) / (many - few)
        return tokens * slope + (low - slope * few)


@dataclass(frozen=True)
class UNet(SD3):
    """Stable Diffusion 1, 2, XL: latents; residuals of ControlNets and T2I-Adapters are sliced; SDXL's time_ids."""

    multiple: int = 8
    cells_per_token: int = 1
    canvas_name: str = "sample"

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        if "ip_adapter_masks" in (arguments.get("cross_attention_kwargs") or {}):
            raise _unsupported("IP-Adapter masks", "Leave ip_adapter_masks out.")
        asked = super().tiles(arguments, tiles, boxes, size, view)
        for name in ("down_block_additional_residuals", "down_intrablock_additional_residuals"):
            if arguments.get(name) is not None:
                asked[name] = type(arguments[name])(cut_level(r, boxes, size) for r in arguments[name])
        if arguments.get("mid_block_additional_residual") is not None:
            asked["mid_block_additional_residual"] = cut_level(arguments["mid_block_additional_residual"], boxes, size)
        ids = (asked.get("added_cond_kwargs") or {}).get("time_ids")
        if ids is not None and view.time_ids != "global":
            asked["added_cond_kwargs"] = asked["added_cond_kwargs"] | {"time_ids": _time_ids(ids, boxes, view)}
        return asked


def _time_ids(ids: torch.Tensor, boxes: Sequence[Box], view: View) -> torch.Tensor:
    """SDXL's (height, width, top, left[, target height, target width]) per tile; the refiner's score stays."""
    ids = ids.clone().unflatten(0, (-1, len(boxes)))
    for i, box in enumerate(boxes):
        shape = [box.height * view.pixels, box.width * view.pixels]
        first, values = (
            (2, [box.y0 * view.pixels, box.x0 * view.pixels]) if view.time_ids == "crop" else (0, [*shape, 0, 0])
        )
        ids[:, i, first:4] = torch.tensor(values).to(ids)
        if ids.shape[-1] == 6:
            ids[:, i, 4:] = torch.tensor(shape).to(ids)
    return ids.flatten(0, 1)


@dataclass(frozen=True)
class Flux(SD3):
    """Packed tokens, B×N×C, their places in img_ids (…, row, column); each tile gets those of the top left corner."""

    multiple: int = 1
    cells_per_token: int = 1
    shared: frozenset[str] = frozenset({"return_dict", "txt_ids", "img_ids", "controlnet_blocks_repeat"})

    def canvas(self, arguments: Arguments) -> torch.Tensor:
        return to_grid(arguments["hidden_states"], self._size(arguments))

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        asked = super().tiles(arguments, to_tokens(tiles), boxes, size, view)
        ids = arguments["img_ids"].unflatten(0, (size.height, size.width))
        asked["img_ids"] = ids[: boxes[0].height, : boxes[0].width].flatten(0, 1)
        return asked | _cut_samples(arguments, boxes, size)

    def unpack(self, answer: Any, tile: Size) -> torch.Tensor:
        return to_grid(answer, tile)

    def pack(self, canvas: torch.Tensor) -> Any:
        return to_tokens(canvas)

    def _size(self, arguments: Arguments) -> Size:
        ids = arguments["img_ids"]
        size = Size(int(ids[..., 2].max()) + 1, int(ids[..., 1].max()) + 1)
        if ids.ndim != 2 or size.pixels != arguments["hidden_states"].shape[1]:
            raise _unsupported("image tokens beside the canvas (Kontext)", PLAIN)
        return size


@dataclass(frozen=True)
class Flux2(Flux):
    """Packed tokens as Flux', their places in img_ids, B×N×(image, row, column, layer): image 0 is the canvas."""

    shared: frozenset[str] = frozenset({"return_dict"})

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        asked = SD3.tiles(self, arguments, to_tokens(tiles), boxes, size, view)
        ids = asked["img_ids"].unflatten(-2, (size.height, size.width))
        return asked | {"img_ids": ids[..., : boxes[0].height, : boxes[0].width, :].flatten(-3, -2)}

    def mu(self, tokens: int, steps: int, config: Mapping[str, Any]) -> float:
        """Flux2's own curve, from two lines fitted at 10 and at 200 steps (compute_empirical_mu in its pipelines)."""
        many = 0.00016927 * tokens + 0.45666666
        if tokens > 4300:
            return many
        slope = (many - (8.73809524e-05 * tokens + 1.89833333)) / 190
        return slope * steps + (many - 200 * slope)

    def _size(self, arguments: Arguments) -> Size:
        ids, tokens = arguments["img_ids"], arguments["hidden_states"].shape[1]
        size = Size(int(ids[..., 2].max()) + 1, int(ids[..., 1].max()) + 1)
        if arguments.get("kv_cache_mode") or size.pixels != tokens or bool(ids[..., 0].any()):
            raise _unsupported("image tokens beside the canvas (reference images, inpainting)", PLAIN)
        return size


@dataclass(frozen=True)
class QwenImage(Flux):
    """Packed tokens as Flux', their grid in img_shapes: one (1, rows, columns) per batch entry."""

    shared: frozenset[str] = frozenset({"return_dict", "img_shapes"})

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        asked = SD3.tiles(self, arguments, to_tokens(tiles), boxes, size, view)
        asked["img_shapes"] = [[(1, boxes[0].height, boxes[0].width)]] * len(tiles)
        return asked | _cut_samples(arguments, boxes, size)

    def _size(self, arguments: Arguments) -> Size:
        shapes = arguments["img_shapes"][0]
        shapes = shapes if isinstance(shapes, list) else [shapes]
        frames, height, width = shapes[0]
        if len(shapes) > 1 or frames != 1:
            raise _unsupported("image tokens beside the canvas (Edit, Layered)", PLAIN)
        return Size(width, height)


@dataclass(frozen=True)
class ZImage(SD3):
    """Lists of C×1×H×W latents and of captions, one per batch entry; the answer is such a list too."""

    canvas_name: str = "x"

    def canvas(self, arguments: Arguments) -> torch.Tensor:
        for name in ("siglip_feats", "image_noise_mask", "controlnet_block_samples"):
            if arguments.get(name) is not None:
                raise _unsupported(f"Z-Image's {name}", PLAIN)
        return torch.stack(list(arguments["x"]))

    def tiles(
        self, arguments: Arguments, tiles: torch.Tensor, boxes: Sequence[Box], size: Size, view: View
    ) -> Arguments:
        n = len(boxes)
        return arguments | {
            "x": list(tiles.unbind(0)),
            "t": expand(arguments["t"], len(tiles) // n, n),
            "cap_feats": [caption for caption in arguments["cap_feats"] for _ in range(n)],
        }

    def unpack(self, answer: Any, tile: Size) -> torch.Tensor:
        return torch.stack(list(answer))

    def pack(self, canvas: torch.Tensor) -> Any:
        return list(canvas.unbind(0))


Adapter = SD3
ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "UNet2DConditionModel": UNet,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": Flux,
    "Flux2Transformer2DModel": Flux2,
    "QwenImageTransformer2DModel": QwenImage,
    "ZImageTransformer2DModel": ZImage,
}


def adapter_for(model: type) -> Adapter:
    """The adapter of a denoiser's class. Raises ConfigError for a family there is none for."""
    for base in model.__mro__:
        if base.__name__ in ADAPTERS:
            return ADAPTERS[base.__name__]()
    raise _unsupported(f"a {model.__name__}", f"Denoisers that can be: {', '.join(ADAPTERS)}.")


def to_grid(tokens: torch.Tensor, size: Size) -> torch.Tensor:
    """B×N×C tokens, row by row, as B×C×H×W."""
    return tokens.transpose(1, 2).unflatten(2, (size.height, size.width))


def to_tokens(grid: torch.Tensor) -> torch.Tensor:
    """B×C×H×W as B×N×C tokens."""
    return grid.flatten(2).transpose(1, 2)


def cut_tokens(tokens: torch.Tensor, boxes: Sequence[Box], size: Size, cells: int = 1) -> torch.Tensor:
    """The tokens of each box, of `cells`² cells each."""
    return to_tokens(cut_level(to_grid(tokens, size.divided(cells)), boxes, size))


def cut_level(x: torch.Tensor, boxes: Sequence[Box], size: Size) -> torch.Tensor:
    """The boxes of a condition on a level 2ᵏ times coarser than the canvas of `size` cells; their edges lie on it."""
    step = min(_step(size.width, x.shape[-1]), _step(size.height, x.shape[-2]))
    x = mirrored(x, Size(-(-size.width // step), -(-size.height // step)))
    return cut(x, [Box(b.x0 // step, b.y0 // step, -(-b.x1 // step), -(-b.y1 // step)) for b in boxes])


def _step(cells: int, there: int) -> int:
    """The largest power of two that leaves a side of `cells`, padded or not, at least what is `there`.

    Levels halve and round up, and so a ratio would mislead: 9 cells are 5, 3, 2.
    """
    step = 1
    while step < cells and -(-cells // (2 * step)) >= there:
        step *= 2
    return step


def _cut_samples(arguments: Arguments, boxes: Sequence[Box], size: Size) -> Arguments:
    names = ("controlnet_block_samples", "controlnet_single_block_samples")
    given = {name: arguments[name] for name in names if arguments.get(name) is not None}
    return {name: [cut_tokens(t, boxes, size) for t in samples] for name, samples in given.items()}


def _unsupported(what: str, hint: str) -> ConfigError:
    return ConfigError(f"The tile engine can't cut {what}.", hint=hint)
