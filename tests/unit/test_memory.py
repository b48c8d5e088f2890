"""The planner: a budget changes the batch, and what can't fit is refused with the setting that helps."""

from __future__ import annotations

import pytest

from tilehires.errors import ConfigError
from tilehires.geometry import Size
from tilehires.memory import GIB, Need, parse_bytes, plan

SDXL = Need(weights=int(4.78 * GIB), per_cell=9.84 * 1024)
TILE = Size(128, 128)
CANVAS = Size(160, 160)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8GB", 8 * GIB), ("8 GiB", 8 * GIB), ("512m", 512 * 2**20), ("1.5G", int(1.5 * GIB)), ("100", 100)],
)
def test_amounts_are_read(text: str, value: int) -> None:
    assert parse_bytes(text, what="memory.vram") == value


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "8 bits"])
def test_what_is_no_amount_names_its_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="memory.vram"):
        parse_bytes(text, what="memory.vram")


def test_a_larger_budget_only_raises_the_batch() -> None:
    batches = [
        plan(SDXL, TILE, 9, canvas=CANVAS, budget=g * GIB, guided=True, accelerator=True).tile_batch
        for g in (8, 12, 16, 80)
    ]
    assert batches == sorted(batches) and batches[0] >= 1 and batches[-1] == 8


def test_the_prediction_stays_within_the_budget() -> None:
    for budget in range(8, 40):
        made = plan(SDXL, TILE, 9, canvas=CANVAS, budget=budget * GIB, guided=True, accelerator=True)
        assert made.peak <= made.budget == budget * GIB


def test_what_cannot_fit_is_refused_with_the_setting_that_helps() -> None:
    with pytest.raises(ConfigError) as error:
        plan(SDXL, TILE, 9, canvas=CANVAS, budget=4 * GIB, guided=True, accelerator=True)
    assert "tile_max" in error.value.hint and "--vram" in error.value.hint


def test_an_asked_batch_is_taken() -> None:
    assert (
        plan(SDXL, TILE, 9, canvas=CANVAS, budget=80 * GIB, guided=False, accelerator=True, asked_batch=3).tile_batch
        == 3
    )


def test_a_canvas_in_one_piece_counts_as_well() -> None:
    with pytest.raises(ConfigError) as error:
        plan(SDXL, TILE, 9, canvas=Size(256, 256), budget=8 * GIB, guided=True, accelerator=True)
    assert "hires.max_canvas" in error.value.hint
    small = plan(SDXL, TILE, 1, canvas=TILE, budget=80 * GIB, guided=True, accelerator=True)
    assert plan(SDXL, TILE, 1, canvas=Size(256, 256), budget=80 * GIB, guided=True, accelerator=True).peak > small.peak
