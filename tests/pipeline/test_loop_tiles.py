"""Tiles in our loop: a linear model gives the untiled answer, order changes no bit, batches nothing that is seen; and
every tile listens to its own part of the conditions, so that no clone grid appears where all is repainted."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny import noise
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.inpaint import Inpaint
from tilehires.diffusion.noise import CanvasNoise
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.sampling import Steps
from tilehires.geometry import Box, Size
from tilehires.tiling import vae
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import Tile, TileGrid, elastic_grid

CELLS, SIZE = Size(40, 24), Size(320, 192)
GRID = elastic_grid(CELLS, tile_max=16, overlap=4, multiple=8)
SCHEDULER = tiny.sd15().scheduler.config


class Shuffled(TileGrid):
    """The same cut, its tiles in another order."""

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        tiles = TileGrid(self.canvas, self.tile, self.xs, self.ys).tiles
        return tuple(tiles[i] for i in np.random.default_rng(3).permutation(len(tiles)))


def shuffled(grid: TileGrid) -> TileGrid:
    return Shuffled(grid.canvas, grid.tile, grid.xs, grid.ys)


class Stand:
    """A stand-in for UNet and VAE: `answer(latents, conditions)` in the UNet's place."""

    dtype = torch.float32

    def __init__(self, answer: Any, channels: int = 4) -> None:
        self.config = {"in_channels": channels, "latent_channels": 4, "block_out_channels": [1] * 4}
        self._answer = answer

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **conditions: Any) -> tuple[torch.Tensor]:
        return (self._answer(x, {**conditions, "t": t}),)


def ran(stand: Stand, sampler: str, *, latents: torch.Tensor | None, steps: Steps, **options: Any) -> torch.Tensor:
    return sampling.sample(
        Diffusion(stand, stand, (), (), SCHEDULER),
        Conditioning(torch.zeros(1, 77, 8), None, False),
        latents,
        scheduler=samplers.make(sampler, "Automatic", SCHEDULER),
        steps=steps,
        cfg=1.0,
        noise=CanvasNoise(7, "tiled.1"),
        size=SIZE,
        **options,
    ).latents


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DPM++ 2M SDE", "Euler a", "Heun", "DDIM", "UniPC"])
def test_a_linear_denoiser_gives_the_untiled_answer(sampler: str) -> None:
    linear = Stand(lambda x, conditions: x * 0.3 - 0.05)
    start = noise(1, 4, 24, 40, seed=1)
    whole, tiled = (
        ran(linear, sampler, latents=start, steps=Steps(8, 4), denoiser=denoiser)
        for denoiser in (None, TiledDenoiser(GRID, 3))
    )
    assert len(GRID.tiles) >= 6
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=1e-6)


def real(pipe: Any, sampler: str, denoiser: TiledDenoiser, **options: Any) -> torch.Tensor:
    """A tiny real model's pass at denoise 0.33, as latents."""
    model = tiny.parts(pipe)
    return sampling.sample(
        model,
        prompts.encode(model, "a cat", "blurry", guided=True),
        noise(1, 4, 24, 40, seed=1) * 0.5,
        scheduler=samplers.make(sampler, "Automatic", pipe.scheduler.config),
        steps=Steps(6, 4),
        cfg=7.0,
        noise=CanvasNoise(7, "tiled.1"),
        size=SIZE,
        denoiser=denoiser,
        **options,
    ).latents


def test_the_order_of_tiles_changes_no_bit_and_their_batch_nothing_that_is_seen() -> None:
    """One at a time, in any order: bitwise. In batches: other sums, up to 1/255 after the decode in float32."""
    pipe = tiny.sd15()
    first = real(pipe, "DPM++ 2M SDE", TiledDenoiser(GRID, 1))
    assert torch.equal(real(pipe, "DPM++ 2M SDE", TiledDenoiser(shuffled(GRID), 1)), first)
    pixels = vae.decode(pipe.vae, first, mode="whole")
    for batch, grid in ((3, shuffled(GRID)), (8, GRID)):
        other = vae.decode(pipe.vae, real(pipe, "DPM++ 2M SDE", TiledDenoiser(grid, batch)), mode="whole")
        worst = (other - pixels).abs().max() / 2  # pixels are in [-1, 1]
        assert worst <= 1 / 255, f"batch {batch}: off by up to {255 * worst:.3f}/255"


def test_in_half_precision_batches_agree_to_45_db() -> None:
    pipe = tiny.sd15()
    pipe.unet.to(torch.bfloat16)
    one, eight = (
        vae.decode(pipe.vae, real(pipe, "DPM++ 2M", TiledDenoiser(GRID, batch)), mode="whole").clip(-1, 1) / 2
        for batch in (1, 8)
    )
    error = float(((one - eight) ** 2).mean())
    assert error == 0 or -10 * np.log10(error) >= 45, f"PSNR {-10 * np.log10(error):.1f} dB"


def clones(latents: torch.Tensor) -> float:
    """How alike the tiles are: the largest correlation of what any two tiles of GRID made, each shifted onto the other.

    What one and the same condition in all tiles leaves is a pattern that repeats at the tile period: near 1.
    """
    parts = [latents[(..., *tile.box.slices)].flatten().double() for tile in GRID.tiles]
    parts = [part - part.mean() for part in parts]
    return max(float((a @ b) / (a.norm() * b.norm())) for a, b in combinations(parts, 2))


def smooth(channels: int, size: Size, seed: int) -> torch.Tensor:
    """1×C×H×W in [0, 1]: a picture that is nowhere like elsewhere."""
    coarse = noise(1, channels, 9, 15, seed=seed)
    fine = torch.nn.functional.interpolate(coarse, (size.height, size.width), mode="bicubic")
    return ((fine - fine.min()) / (fine.max() - fine.min())).contiguous()


def told(field: torch.Tensor) -> torch.Tensor:
    """The latents that a condition asks for."""
    return 4 * (field.mean(1, keepdim=True) - 0.5).expand(-1, 4, -1, -1)


LEFT = samplers.make("DDIM", "Uniform", SCHEDULER).alphas_cumprod


def drawing(x: torch.Tensor, t: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """The noise that an ideal model finds in latents whose picture is what the condition asks for."""
    left = LEFT[int(t)]
    return (x - left.sqrt() * told(field)) / (1 - left).sqrt()


class Net:
    """A stand-in for a ControlNet: hands the hint, at the latents' size, to the UNet."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **arguments: Any) -> tuple[list[Any], torch.Tensor]:
        return [], torch.nn.functional.avg_pool2d(arguments["controlnet_cond"], 8)


def drawn(kind: str, broken: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(what is made of a condition at denoise 1.0, what the condition asks for); `broken`: all tiles get the same part."""
    first = GRID.tiles[0].box
    picture = smooth(3, SIZE, seed=11)
    field = torch.nn.functional.avg_pool2d(picture, 8)
    options: dict[str, Any] = {"latents": None, "steps": Steps(12, 0), "denoiser": TiledDenoiser(GRID, 3)}
    if kind == "hint":
        if broken:
            real_part = Control.part
            monkeypatch.setattr(Control, "part", lambda self, box: real_part(self, first.scale(8)))
        stand = Stand(lambda x, said: drawing(x, said["t"], said["mid_block_additional_residual"]))
        return ran(stand, "DDIM", controls=[Control(Net(), picture)], **options), told(field)
    if kind == "mask":
        mask = field.mean(1, keepdim=True)
        part = Inpaint(mask, torch.zeros(1, 4, 24, 40), torch.zeros(1, 4, 24, 40))
        if broken:
            patch = mask[(..., *first.slices)]
            tiled = patch.repeat(1, 1, 2, 3)[..., :24, :40]
            part = Inpaint(tiled, part.original, part.masked)
        stand = Stand(lambda x, said: drawing(x[:, :4], said["t"], x[:, 4:5]), channels=9)
        return ran(stand, "DDIM", inpaint=part, **options), told(mask)

    def heard(step: int, box: Box) -> Conditioning:
        where = first if broken else box
        return Conditioning(field[(..., *where.slices)].mean(1).reshape(1, -1, 8).contiguous(), None, False)

    def answer(x: torch.Tensor, conditions: dict[str, Any]) -> torch.Tensor:
        shown = conditions["encoder_hidden_states"].reshape(len(x), 1, *x.shape[-2:])
        return drawing(x, conditions["t"], shown)

    return ran(Stand(answer), "DDIM", tile_conditioning=heard, **options), told(field)


@pytest.mark.parametrize("kind", ["hint", "mask", "prompt"])
def test_no_clone_grid_where_all_is_repainted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = drawn(kind, False, monkeypatch)
    score, alike = clones(made), np.corrcoef(made.flatten().numpy(), asked.expand_as(made).flatten().numpy())[0, 1]
    assert score < 0.6, f"{kind}: two tiles are alike by {score:.2f}"
    assert alike > 0.95, f"{kind}: what is drawn is alike to what the condition shows by {alike:.2f} only"
    broken = clones(drawn(kind, True, monkeypatch)[0])
    assert broken > 0.8, f"{kind}: the measure doesn't see a clone grid ({broken:.2f})"


def test_prompts_per_tile_of_different_lengths_go_through_one_batch() -> None:
    pipe, seen = tiny.sdxl(), []
    model = tiny.parts(pipe)
    pipe.unet.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    texts = ["sky", "a very long prompt, " * 30, "grass"]
    each = [prompts.encode(model, text, "blurry", guided=True) for text in texts]
    assert len({one.embeds.shape[1] for one in each}) == 2
    boxes = [tile.box for tile in GRID.tiles]

    def heard(step: int, box: Box) -> Conditioning:
        return each[boxes.index(box) % 3]

    one, three = (real(pipe, "Euler a", TiledDenoiser(GRID, batch), tile_conditioning=heard) for batch in (1, 3))
    assert (one - three).abs().max() < 1e-3, "repeating a shorter prompt's tokens must not change what is heard"
    # The first call of the second pass: three tiles, the unconditional entry and the conditional.
    first = next(kwargs for kwargs in seen if len(kwargs["encoder_hidden_states"]) == 6)
    embeds, added = first["encoder_hidden_states"], first["added_cond_kwargs"]
    want = [each[i].embeds[entry] for entry in (0, 1) for i in (0, 1, 2)]
    for got, own in zip(embeds, want, strict=True):
        assert torch.equal(got[: len(own)], own) and torch.equal(got[-len(own) :], own)
    want = [each[i].pooled[entry] for entry in (0, 1) for i in (0, 1, 2)]  # pyright: ignore[reportOptionalSubscript]
    assert torch.equal(added["text_embeds"], torch.stack(want))
