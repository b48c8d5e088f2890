"""`tiled(pipe)` on stock pipelines of every family: untouched outside, bit-identical in one tile, batches agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.families import Case, D, embeds, flux, flux2, quiet, qwen, sd3, sd15, sdxl, zimage
from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.tiling import tiled
from tilehires.tiling.adapters import ADAPTERS, cut_level
from tilehires.tiling.grid import Tile, TileGrid, elastic_grid


@pytest.fixture(params=[sd15, sdxl, sd3, flux, flux2, zimage, qwen])
def case(request: pytest.FixtureRequest) -> Case:
    return quiet(request.param)


@pytest.fixture
def small() -> Case:
    return quiet(sd15)


def close(a: Any, b: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


def test_one_covering_tile_is_the_stock_pipeline_bit_for_bit(case: Case) -> None:
    stock = case.run()
    with tiled(case.pipe, tile=256, overlap=8) as engine:
        assert torch.equal(case.run(), stock)
    assert engine.grid is not None and len(engine.grid.tiles) == 1


def test_nothing_stays_behind(case: Case) -> None:
    stock, before = case.run(), type(case.denoiser)
    with tiled(case.pipe, tile=case.tile, overlap=2, batch=3) as engine:
        assert isinstance(case.denoiser, before) and type(case.denoiser).__name__ == before.__name__
        assert not torch.equal(case.run(), stock), "the tiles had no effect: was the engine called?"
    assert engine.grid is not None and len(engine.grid.tiles) >= 4
    assert type(case.denoiser) is before and not [k for k in vars(case.denoiser) if "tilehires" in k]
    assert torch.equal(case.run(), stock)


def test_batches_differ_by_less_than_a_level_of_the_picture(case: Case) -> None:
    pictures = []
    for batch in (1, 3, 8):
        with tiled(case.pipe, tile=case.tile, overlap=2, batch=batch):
            pictures.append(case.run(output_type="pt"))
    for picture in pictures[1:]:
        close(picture, pictures[0], 1 / 255)
    case.pipe.to(torch.bfloat16)
    case.prompts = half(case.prompts)
    pictures = []
    for batch in (1, 8):
        with tiled(case.pipe, tile=case.tile, overlap=2, batch=batch):
            pictures.append(case.run(output_type="pt").double())
    error = (pictures[1] - pictures[0]).square().mean()
    assert error < 10**-4.5, f"PSNR {-10 * error.log10():.1f} dB in bfloat16, not 45"


def half(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.bfloat16() if value.is_floating_point() else value
    if isinstance(value, list):
        return [half(item) for item in value]
    return {key: half(item) for key, item in value.items()} if isinstance(value, dict) else value


class Backwards(TileGrid):
    """The tiles from the last to the first."""

    @property
    def tiles(self) -> tuple[Tile, ...]:  # type: ignore[override]
        return tuple(reversed(TileGrid(self.canvas, self.tile, self.xs, self.ys).tiles))


def test_the_order_of_tiles_changes_no_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with tiled(case.pipe, tile=case.tile, overlap=2) as engine:
        forwards = case.run()
    assert engine.grid is not None and len(engine.grid.xs) > 1 and len(engine.grid.ys) > 1

    def backwards(*args: Any, **options: Any) -> TileGrid:
        grid = elastic_grid(*args, **options)
        return Backwards(grid.canvas, grid.tile, grid.xs, grid.ys)

    monkeypatch.setattr("tilehires.tiling.pipeline.elastic_grid", backwards)
    with tiled(case.pipe, tile=case.tile, overlap=2) as engine:
        assert torch.equal(case.run(), forwards)
    assert isinstance(engine.grid, Backwards)


def pointwise(canvas_name: str) -> Callable[..., tuple[Any]]:
    """A model that looks at nothing around: cut or not, its answer is the same."""

    def forward(*args, **given) -> tuple[Any]:
        x = args[0] if args else given[canvas_name]
        return ([item * 0.3 for item in x] if isinstance(x, list) else x * 0.3,)

    return forward


def test_with_a_pointwise_model_tiles_give_the_untiled_answer(case: Case) -> None:
    """The stand-in sits where offload hooks put theirs: on the instance's forward."""
    vars(case.denoiser)["forward"] = pointwise(ADAPTERS[type(case.denoiser).__name__]().canvas_name)
    case.pipe.scheduler.register_to_config(use_dynamic_shifting=False)  # one shift for tile and canvas
    stock = case.run()
    for tile, overlap, batch in ((case.tile, 0, 1), (case.tile, 4, 3), (case.tile // 2 * 3, case.tile // 2, 2)):
        with tiled(case.pipe, tile=tile, overlap=overlap, batch=batch) as engine:
            close(case.run(), stock, 1e-6)
        assert engine.grid is not None and len(engine.grid.tiles) > 1


def test_qwen_image_goes_by_its_shapes() -> None:
    torch.manual_seed(0)
    model = D.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipe = type("Pipe", (), {"transformer": model, "vae_scale_factor": 8})()
    arguments = {
        "hidden_states": embeds(1, 2, 24 * 16, 16),
        "encoder_hidden_states": embeds(2, 2, 5, 32),
        "encoder_hidden_states_mask": torch.ones(2, 5, dtype=torch.long),
        "timestep": torch.tensor([0.5, 0.5]),
        "img_shapes": [[(1, 24, 16)]] * 2,
    }
    with torch.no_grad():
        stock = model(**arguments).sample
        with tiled(pipe, tile=64, overlap=2):
            assert torch.equal(model(**arguments).sample, stock)
        with tiled(pipe, tile=12, overlap=2, batch=1) as engine:
            one = model(**arguments, return_dict=False)[0]
        with tiled(pipe, tile=12, overlap=2, batch=4):
            four = model(**arguments).sample
        assert engine.grid is not None and len(engine.grid.tiles) == 6
        close(four, one)
        edited = arguments | {"img_shapes": [[(1, 12, 16), (1, 12, 16)]] * 2}
        with tiled(pipe, tile=12, overlap=2), pytest.raises(ConfigError, match="beside the canvas"):
            model(**edited)


@pytest.mark.parametrize("size", [(200, 168), (264, 96), (104, 272), (136, 8)])
def test_a_canvas_that_is_no_multiple_is_padded_and_cropped(small: Case, size: tuple[int, int]) -> None:
    """Also where one axis is shorter than a tile, and no multiple itself."""
    vars(small.denoiser)["forward"] = pointwise("sample")
    stock = small.run(*size)
    with tiled(small.pipe, tile=16, overlap=4, batch=2) as engine:
        latents = small.run(*size)
    assert engine.grid is not None and len(engine.grid.tiles) > 1
    assert latents.shape == stock.shape == (1, 4, size[1] // 8, size[0] // 8)
    close(latents, stock, 1e-6)


def test_nan_in_one_tile_stays_visible(case: Case) -> None:
    calls, name = [], ADAPTERS[type(case.denoiser).__name__]().canvas_name

    def forward(*args, **given) -> tuple[Any]:
        calls.append(None)
        answer = pointwise(name)(*args, **given)[0]
        if len(calls) == 2:
            answer[0].fill_(torch.nan)
        return (answer,)

    vars(case.denoiser)["forward"] = forward
    with tiled(case.pipe, tile=case.tile, overlap=2):
        latents = case.run()
    assert latents.isnan().any() and latents.isfinite().any()


@pytest.mark.parametrize(
    ("time_ids", "first", "last"),
    [
        ("tile", [128, 128, 0, 0, 128, 128], [128, 128, 0, 0, 128, 128]),
        ("global", [192, 256, 0, 0, 192, 256], [192, 256, 0, 0, 192, 256]),
        ("crop", [192, 256, 0, 0, 128, 128], [192, 256, 64, 128, 128, 128]),
    ],
)
def test_sdxl_is_told_of_tile_canvas_or_crop(time_ids: Any, first: list[int], last: list[int]) -> None:
    case, seen = quiet(sdxl), []

    def forward(sample, timestep, encoder_hidden_states, added_cond_kwargs, **_) -> tuple[torch.Tensor]:
        seen.append(added_cond_kwargs["time_ids"])
        return (sample,)

    vars(case.denoiser)["forward"] = forward
    with tiled(case.pipe, tile=16, overlap=0, batch=8, time_ids=time_ids):
        case.run()
    ids = seen[0].unflatten(0, (2, -1))  # guidance first, then the tiles
    assert torch.equal(ids[0], ids[1])
    assert ids[0, 0].tolist() == first and ids[0, -1].tolist() == last


def test_residuals_of_a_controlnet_are_those_of_the_tiles_place(small: Case) -> None:
    unet, places = small.pipe.unet, torch.arange(24 * 32.0).reshape(1, 1, 24, 32)
    levels = [places[..., ::s, ::s] for s in (1, 2, 4, 8)]

    def forward(sample, timestep, encoder_hidden_states, down_block_additional_residuals, **rest) -> tuple[Any]:
        for step, level in zip((1, 2, 4, 8), down_block_additional_residuals, strict=True):
            assert torch.equal(level, sample[..., ::step, ::step]), f"level {step} shows another place than its tile"
        assert torch.equal(rest["mid_block_additional_residual"], sample[..., ::8, ::8])
        return (sample,)

    vars(unet)["forward"] = forward
    with tiled(small.pipe, tile=16, overlap=4, batch=3):
        answer = unet(
            places, 1, encoder_hidden_states=embeds(0, 1, 5, 32), down_block_additional_residuals=levels,
            mid_block_additional_residual=levels[-1], return_dict=False,
        )[0]  # fmt: skip
    close(answer, places)


def test_an_exception_restores_and_a_second_entry_is_refused(small: Case) -> None:
    before = type(small.pipe.unet)
    with pytest.raises(ZeroDivisionError), tiled(small.pipe, tile=16, overlap=4):
        with pytest.raises(ConfigError, match="tiled already"), tiled(small.pipe, tile=16, overlap=4):
            pass
        assert type(small.pipe.unet) is not before, "the refused second entry must leave the first in place"
        raise ZeroDivisionError
    assert type(small.pipe.unet) is before


def test_one_subclass_serves_every_use(small: Case) -> None:
    seen = []
    for _ in range(2):
        with tiled(small.pipe, tile=16, overlap=4):
            seen.append(type(small.pipe.unet))
    assert seen[0] is seen[1], "a class per use would recompile compiled graphs"


def test_what_cannot_work_is_refused_on_entry(small: Case) -> None:
    for options, says in (
        ({"tile": 16, "overlap": 16}, "overlap"),
        ({"tile": 16, "overlap": 4, "batch": 0}, "batch = 0"),
        ({"tile": 0, "overlap": 0}, "tile = 0"),
        ({"tile": 16, "overlap": 4, "time_ids": "none"}, "time_ids"),
    ):
        with pytest.raises(ConfigError, match=says), tiled(small.pipe, **options):  # type: ignore[arg-type]
            pass
    with (
        pytest.raises(ConfigError, match="Linear"),
        tiled(type("P", (), {"unet": nn.Linear(1, 1)})(), tile=16, overlap=0),
    ):
        pass
    with pytest.raises(ConfigError, match="no denoiser"), tiled(object(), tile=16, overlap=0):
        pass
    masks = {"ip_adapter_masks": [torch.ones(1, 1, 8, 8)]}
    with tiled(small.pipe, tile=16, overlap=4), pytest.raises(ConfigError, match="IP-Adapter masks"):
        small.run(cross_attention_kwargs=masks)


@pytest.mark.parametrize("cells", [8, 9, 21, 25, 31])
def test_a_residuals_level_is_told_by_how_sizes_halve(cells: int) -> None:
    """9 cells are 5, 3 and 2 further down: by their ratio the last would pass for the level before it."""
    there = cells
    for level in range(4):
        x = torch.rand(1, 2, 64 >> level, there)
        assert torch.equal(cut_level(x, [Box(0, 0, cells, 64)], Size(cells, 64)), x), f"level {level}"
        there = -(-there // 2)
