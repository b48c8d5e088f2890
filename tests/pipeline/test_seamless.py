"""Pictures that tile without a seam: every part of the way commutes with rolling the picture around, as no cut one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests import tiny
from tests.batches import Workplace, workplace
from tests.pipeline import test_vae
from tilehires import upscalers
from tilehires.diffusion import prompts, samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.control import Control
from tilehires.diffusion.sampling import Steps
from tilehires.geometry import OPEN, Box, Size, Wrap
from tilehires.progress import Silent
from tilehires.scratch import Scratch
from tilehires.tiling import vae
from tilehires.tiling.circular import circular
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid, elastic_grid
from tilehires.upscalers import ring

AXES = {"x": (Wrap(x=True), -1), "y": (Wrap(y=True), -2), "both": (Wrap(x=True, y=True), -2)}
EACH = pytest.mark.parametrize("axes", AXES)


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max())


@pytest.fixture(scope="module")
def model() -> Diffusion:
    pipe = tiny.sd15(1)
    pipe.unet.requires_grad_(False)
    return tiny.parts(pipe)


# The VAE

KL, TINY = test_vae.kl(), test_vae.tiny()
WAYS = [
    *((KL, "whole", axes) for axes in AXES),
    *((KL, "tiled", axes) for axes in AXES),
    (KL, "estimated", "both"),
    (TINY, "whole", "both"),
    *((TINY, "tiled", axes) for axes in AXES),
]


@pytest.mark.parametrize(("net", "mode", "axes"), WAYS)
def test_the_vae_goes_around_in_every_mode(net: Any, mode: vae.Mode, axes: str) -> None:
    wrap, axis = AXES[axes]
    how: dict[str, Any] = {"mode": mode, "tile": 24, "strip_bytes": 20_000, "wrap": wrap}
    pixels, latents = test_vae.pixels(64, 96), test_vae.latents(net, 8, 12)
    encoded, decoded = vae.encode(net, pixels, **how), vae.decode(net, latents, **how)
    assert off(vae.encode(net, pixels.roll(24, axis), **how), encoded.roll(3, axis)) < 1e-5
    assert off(vae.decode(net, latents.roll(3, axis), **how), decoded.roll(24, axis)) < 1e-5
    whole = {**how, "mode": "whole"}
    assert off(encoded, vae.encode(net, pixels, **whole)) < 1e-5
    assert off(decoded, vae.decode(net, latents, **whole)) < 1e-5
    if axes != "both":
        other = -3 - axis
        cut = vae.decode(net, latents.roll(3, other), **how)
        assert off(cut, decoded.roll(24, other)) > 1e-3, "the other axis has its edges still"


def test_afterwards_the_modules_are_as_they_were(model: Diffusion) -> None:
    def state() -> list[Any]:
        return [
            (getattr(layer, "padding", None), len(layer._forward_pre_hooks), "forward" in vars(layer))
            for net in (model.unet, model.vae)
            for layer in net.modules()
        ]

    before = state()
    with circular(OPEN, model.unet, model.vae):
        assert state() == before, "off, nothing is touched"
    with pytest.raises(RuntimeError, match="ended"), circular(AXES["both"][0], model.unet, model.vae):
        assert state() != before
        raise RuntimeError("ended")
    assert state() == before


def test_padding_of_another_kind_is_refused() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="reflect"), circular(AXES["x"][0], conv):
        pass


# Sampling


class Drawn:
    """The noise of a pass, given."""

    def __init__(self, start: torch.Tensor) -> None:
        self._start = start

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        assert tuple(self._start.shape) == shape
        return self._start

    def generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(step)


def sampled(
    model: Diffusion, cells: Size, wrap: Wrap, rolled: tuple[int, int], grid: TileGrid, controls: Any = ()
) -> torch.Tensor:
    draw = torch.Generator().manual_seed(4)
    latents, noise = (torch.randn(1, 4, cells.height, cells.width, generator=draw) for _ in range(2))
    with circular(wrap.without(grid.wrap), model.unet):
        return sampling.sample(
            model,
            prompts.encode(model, "a fox", "", guided=False),
            latents.roll(rolled, (-2, -1)),
            scheduler=samplers.make("DPM++ 2M", "Karras", model.scheduler_config),
            steps=Steps(4, 2),
            cfg=1.0,
            noise=Drawn(noise.roll(rolled, (-2, -1))),
            size=Size(cells.width * 8, cells.height * 8),
            denoiser=TiledDenoiser(grid, 2),
            controls=controls,
        ).latents


@EACH
def test_on_one_tile_rolling_what_goes_in_rolls_what_comes_out(model: Diffusion, axes: str) -> None:
    wrap, cells = AXES[axes][0], Size(16, 16)
    grid, shift = TileGrid.whole(cells), (8 if wrap.y else 0, 8 if wrap.x else 0)
    want = sampled(model, cells, wrap, (0, 0), grid).roll(shift, (-2, -1))
    assert off(sampled(model, cells, wrap, shift, grid), want) < 1e-4
    assert off(sampled(model, cells, OPEN, shift, grid), want) > 1e-2


@pytest.mark.parametrize(("axes", "cells"), [("x", Size(32, 8)), ("y", Size(8, 32))])
def test_in_tiles_rolling_by_a_tile_rolls_what_comes_out(model: Diffusion, axes: str, cells: Size) -> None:
    """Tiles of 24 cells every 16: along the ring each sees what another saw, also those across the edge."""
    wrap = AXES[axes][0]
    shift = (16 if wrap.y else 0, 16 if wrap.x else 0)

    def of(wrapped: Wrap, rolled: tuple[int, int]) -> torch.Tensor:
        grid = elastic_grid(cells, tile_max=24, overlap=8, multiple=8, wrap=wrapped)
        assert grid.wrap == wrapped and len(grid.tiles) == 2
        return sampled(model, cells, wrapped, rolled, grid)

    want = of(wrap, (0, 0)).roll(shift, (-2, -1))
    assert off(of(wrap, shift), want) < 1e-4
    assert off(of(OPEN, shift), want) > 1e-2


def test_a_controlnets_hint_goes_around() -> None:
    hint = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    part = Control(None, hint, wrap=AXES["both"][0]).part(Box(16, 8, 32, 24))
    assert torch.equal(part, hint.roll((-8, -16), (-2, -1))[..., :16, :16])


# The upscaler


@pytest.mark.parametrize("name", ["Lanczos", "builtin", "Latent (bicubic)"])
def test_an_upscalers_edges_meet(name: str) -> None:
    upscaler = upscalers.resolve(name)
    image = np.random.default_rng(6).random((24, 40, 3)).astype(np.float32)

    def made(rolled: int, wrap: Wrap) -> np.ndarray:
        how: dict[str, Any] = {"tile": 4096, "progress": Silent(), "scratch": Scratch()}
        return ring.upscale(upscaler, np.roll(image, rolled, 1), Size(60, 36), wrap, **how)

    wrap = AXES["x"][0]
    assert made(0, wrap).shape == (36, 60, 3)
    assert np.abs(np.roll(made(8, wrap), -12, 1) - made(0, wrap)).max() < 1e-4
    assert np.abs(np.roll(made(8, OPEN), -12, 1) - made(0, wrap)).max() > 1e-2


# Whole runs


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def pattern(path: Path, side: int = 64) -> None:
    """Waves that close to a ring along both axes."""
    y, x = np.mgrid[0:side, 0:side] * (2 * np.pi / side)
    planes = [0.5 + 0.2 * np.sin(3 * x + c + np.cos(2 * y)) + 0.2 * np.cos(4 * y + 2 * x - c) for c in range(3)]
    Image.fromarray((np.stack(planes, -1) * 255).astype(np.uint8)).save(path)


def seam(path: Path, axis: int) -> float:
    """How far the two edges lie apart ÷ how far neighbouring lines do."""
    with Image.open(path) as image:
        lines = np.moveaxis(np.asarray(image.convert("RGB"), np.float64), axis, 0)
    apart = np.abs(lines - np.roll(lines, 1, 0)).mean((1, 2))
    return float(apart[0] / apart[1:].mean())


@pytest.mark.parametrize("upscaler", ["builtin", "Latent"])
def test_the_edges_of_an_output_continue_each_other(place: Workplace, upscaler: str) -> None:
    """The second step is in tiles: across, around the ring; and the latents are enlarged, or the pixels."""
    pattern(place.input / "waves.png", 32)
    words = ("--scale", "4", "--denoise", "0.3", "--steps", "2", "--seed", "1", "--set", "check.enabled=false")
    words = (*words, "--set", f"hires.upscaler={upscaler}")
    tiles = ("--set", "tiled.tile_max=80", "--set", "tiled.tile_min=64", "--set", "tiled.overlap=16")
    ended = place.run(*words, *tiles, "--set", "model.seamless=both")
    assert ended.code == 0, ended.err
    made = place.output / "waves.png"
    assert max(seam(made, 0), seam(made, 1)) < 1.5
    [facts] = [stage["facts"] for stage in place.images()["waves.png"]["stages"] if stage["name"] == "tiled.1"]
    assert len({x1 for _, _, x1, _ in facts["tiles"]}) > 2 and [0, 0] in [box[:2] for box in facts["tiles"]]
    assert max(box[2] for box in facts["tiles"]) == 128


def test_a_first_pass_is_seamless_where_it_is_asked_for(place: Workplace) -> None:
    words = ("a fox", "--first-pass-only", "--seed", "3", "--set", "generate.width=64", "--set", "generate.height=64")

    def made(axes: str) -> Path:
        output = place.root / axes
        ended = place.command("generate", *words, "-o", output, "--set", f"model.seamless={axes}")
        assert ended.code == 0, ended.err
        return next(output.glob("*.png"))

    open_, along_x = made("none"), made("x")
    assert seam(along_x, 1) < 1.5 < min(seam(open_, 1), seam(along_x, 0))


@pytest.mark.parametrize(
    ("side", "words", "said"),
    [
        (64, ("--scale", "1.5"), "multiple of 64"),
        (64, ("--size", "128x64"), "cropped"),
        (33, ("--size", "0x64", "--set", "hires.upscaler=Latent"), "latent upscalers"),
    ],
)
def test_sizes_that_are_no_ring_are_refused(place: Workplace, side: int, words: tuple[str, ...], said: str) -> None:
    pattern(place.input / "waves.png", side)
    ended = place.run(*words, "--denoise", "0.3", "--set", "model.seamless=y")
    assert ended.code == 3 and said in place.images()["waves.png"]["error"]["message"]


def test_modes_that_cut_edges_are_refused_before_any_work(place: Workplace) -> None:
    pattern(place.input / "waves.png")
    ended = place.run("--set", "model.seamless=x", "--set", "tiled.redraw=linear")
    assert ended.code == 2 and "tiled.redraw" in ended.err
