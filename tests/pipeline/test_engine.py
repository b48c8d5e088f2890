"""The tile engine: a linear model gives the untiled answer, batches never matter, one tile is untouched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tilehires.geometry import Box, Size
from tilehires.tiling.engine import TiledDenoiser, cut, expand
from tilehires.tiling.grid import TileGrid, elastic_grid

GRID = elastic_grid(Size(80, 56), tile_max=32, overlap=8)


def canvas(batch: int = 2, channels: int = 4) -> torch.Tensor:
    return torch.randn(batch, channels, 56, 80, generator=torch.Generator().manual_seed(0))


def linear(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
    return tiles * 0.7 - 0.2


def unlike_per_tile(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
    """A convolution whose answer differs at tile edges, as a real model's does."""
    kernel = torch.linspace(-1, 1, 4 * 4 * 9).reshape(4, 4, 3, 3)
    return torch.nn.functional.conv2d(tiles, kernel, padding=1)


def test_a_linear_denoiser_gives_the_untiled_answer() -> None:
    x = canvas()
    torch.testing.assert_close(TiledDenoiser(GRID, 3)(x, linear), linear(x, ()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [2, 3, 8, 100])
@pytest.mark.parametrize("pad_last", [False, True])
def test_the_batch_never_matters(batch: int, pad_last: bool) -> None:
    x, sizes = canvas(), set()

    def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
        assert len(tiles) == 2 * len(boxes)
        sizes.add(len(tiles))
        return unlike_per_tile(tiles, boxes)

    one = TiledDenoiser(GRID, 1)(x, unlike_per_tile)
    torch.testing.assert_close(TiledDenoiser(GRID, batch, pad_last=pad_last)(x, call), one, atol=6e-6, rtol=0)
    if pad_last:
        assert len(sizes) == 1, "a padded last batch keeps the one shape"


def test_tiles_are_batch_major_so_that_chunking_for_guidance_stays_right() -> None:
    x = torch.stack([torch.zeros(4, 56, 80), torch.ones(4, 56, 80)])

    def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
        uncond, cond = tiles.chunk(2)
        assert uncond.eq(0).all() and cond.eq(1).all()
        return torch.cat([cond, uncond])

    torch.testing.assert_close(TiledDenoiser(GRID, 4)(x, call), 1 - x, atol=1e-6, rtol=0)


def test_a_single_covering_tile_is_untouched() -> None:
    x, answer = canvas(), torch.randn(2, 4, 56, 80)
    seen = []

    def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
        seen.append((tiles, tuple(boxes)))
        return answer

    assert TiledDenoiser(TileGrid.whole(Size(80, 56)))(x, call) is answer
    assert seen[0][0] is x and seen[0][1] == (Box(0, 0, 80, 56),)


def test_channels_may_change_and_half_precision_stays_half() -> None:
    x = canvas(channels=9).to(torch.bfloat16)
    result = TiledDenoiser(GRID, 2)(x, lambda tiles, boxes: tiles[:, :4])
    assert result.dtype == torch.bfloat16 and result.shape == (2, 4, 56, 80)
    torch.testing.assert_close(result, x[:, :4])


def test_every_tile_gets_its_own_part_of_a_spatial_condition() -> None:
    hint = torch.arange(56 * 8 * 80 * 8, dtype=torch.float32).reshape(1, 1, 56 * 8, 80 * 8).expand(2, -1, -1, -1)
    x = hint[..., ::8, ::8].contiguous()

    def call(tiles: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
        pieces = cut(hint, boxes, 8)
        assert torch.equal(pieces[..., ::8, ::8], tiles), "hint and tile must show the same place"
        return tiles

    torch.testing.assert_close(TiledDenoiser(GRID, 3)(x, call), x)


def test_expand_repeats_entries_in_batch_order_and_leaves_the_rest() -> None:
    conditions = {"embeds": torch.tensor([[0.0], [1.0]]), "scale": torch.tensor(3.0), "pair": (torch.tensor([1, 2]), 5)}
    got = expand(conditions, 2, 3)
    assert got["embeds"].flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert got["scale"] is conditions["scale"]
    assert got["pair"][0].tolist() == [1, 1, 1, 2, 2, 2] and got["pair"][1] == 5


def test_another_canvas_and_an_empty_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="grid over 80x56"):
        TiledDenoiser(GRID)(torch.zeros(1, 4, 56, 72), linear)
    with pytest.raises(ValueError, match="at least 1"):
        TiledDenoiser(GRID, 0)
