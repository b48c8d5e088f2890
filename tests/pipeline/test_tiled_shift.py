"""Flow matching's shift under `tiled(pipe)` is that of the tile which the grid uses, in every family that shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.families import Case, flow, flux, flux2, quiet, qwen, sd3, zimage
from tilehires.tiling import tiled

PIXELS = {flux: 16, flux2: 16, qwen: 16, zimage: 8, sd3: 8}  # per cell


def shifting_sd3() -> Case:
    case = sd3()
    case.pipe.scheduler = flow(True)
    return case


MAKES = [flux, flux2, zimage, qwen, shifting_sd3]


def sigmas_of(case: Case, width: int, height: int, **options: Any) -> torch.Tensor:
    case.run(width, height, **options)
    return case.pipe.scheduler.sigmas.clone()


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("size", [(256, 256), (320, 192), (96, 256)])
def test_sigmas_of_a_large_canvas_are_those_of_a_picture_of_one_tile(
    make: Callable[[], Case], size: tuple[int, int]
) -> None:
    case = quiet(make)
    with tiled(case.pipe, tile=case.tile, overlap=2) as engine:
        in_tiles = sigmas_of(case, *size)
    assert engine.grid is not None and len(engine.grid.tiles) > 1
    tile, pixels = engine.grid.tile, PIXELS.get(make, 8)
    side = case.tile * pixels
    assert (tile.width * pixels, tile.height * pixels) != (side, side), "an elastic tile, smaller than the largest"
    alone = sigmas_of(case, tile.width * pixels, tile.height * pixels)
    assert torch.equal(in_tiles, alone)
    assert not torch.equal(alone, sigmas_of(case, *size)), "the canvas' own shift is another, or this shows nothing"


def test_at_strength_a_third_a_large_canvas_starts_where_a_tile_does() -> None:
    """At 1024² tokens' worth of pixels the stock formula starts at nearly pure noise."""
    case, starts = quiet(flux), []
    scale_noise = case.pipe.scheduler.scale_noise

    def noted(sample, timestep, noise) -> torch.Tensor:
        starts.append(float(timestep[0]) / 1000)
        return scale_noise(sample, timestep, noise)

    case.pipe.scheduler.scale_noise = noted
    case.pipe.scheduler.register_to_config(max_image_seq_len=1024)  # steeper: what 4096² is to the real one
    options: dict[str, Any] = {"strength": 0.3, "num_inference_steps": 10}
    case.run(640, 640, **options)
    case.run(160, 160, **options)
    with tiled(case.pipe, tile=10, overlap=0):
        case.run(640, 640, **options)
    stock, alone, in_tiles = starts
    assert in_tiles == alone < stock, f"{starts}"


def test_one_tile_an_own_mu_and_a_loop_of_ones_own() -> None:
    case = quiet(shifting_sd3)
    stock = sigmas_of(case, 256, 256)
    with tiled(case.pipe, tile=32, overlap=2):
        assert torch.equal(sigmas_of(case, 256, 256), stock), "a canvas of one tile keeps its own"
    own = sigmas_of(case, 256, 256, mu=0.9)
    with tiled(case.pipe, tile=16, overlap=2):
        assert torch.equal(sigmas_of(case, 256, 256, mu=0.9), own), "mu of the user's own is the user's own"
        scheduler = case.pipe.scheduler
        scheduler.set_timesteps(4, mu=5.0)  # not through the pipeline: the canvas is unknown
        bounded = scheduler.sigmas.clone()
    assert torch.equal(bounded, sigmas_of(case, 128, 128)), "at most that of the largest tile, 16×16 cells"


def test_the_pipelines_class_and_scheduler_are_restored() -> None:
    case = quiet(flux)
    before = type(case.pipe)
    with pytest.raises(ZeroDivisionError), tiled(case.pipe, tile=8, overlap=2):
        assert isinstance(case.pipe, before) and type(case.pipe).__name__ == before.__name__
        case.run()
        raise ZeroDivisionError
    assert type(case.pipe) is before
    assert "set_timesteps" not in vars(case.pipe.scheduler)
    assert not [name for name in vars(case.pipe) if "tilehires" in name]


def test_a_canvas_of_the_pipelines_default_size_is_known_too() -> None:
    case = quiet(flux)
    case.pipe.default_sample_size = 32  # cells of 8 pixels: a canvas of 256²
    with tiled(case.pipe, tile=8, overlap=2):
        asked = sigmas_of(case, 256, 256)
        image = torch.rand(1, 3, 96, 160)
        case.pipe(image=image, num_inference_steps=4, output_type="latent", **case.prompts)
    assert torch.equal(case.pipe.scheduler.sigmas, asked)
