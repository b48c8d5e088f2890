"""The planner: a budget changes batch and offload only, and what can't fit is refused with the setting that helps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tilehires.errors import ConfigError
from tilehires.memory import GIB, OFFLOADS, Demand, Part, parse_bytes, peaks, plan, plan_all

CELL = 9.84 * 1024 * 2 / 64  # SDXL with guidance, bytes per pixel
TEXT = Part("text encoders", int(1.52 * GIB), (Demand("one prompt", 2**26),))
VAE = Part("VAE", int(0.16 * GIB), (Demand("1024x1024 in one piece", 3072 * 1024**2, "memory.vae_whole_max", 1024),))
TILES = Demand("tiles of 1024x1024", int(1024**2 * CELL), "tiled.tile_max", 1024, batched=True)
CANVAS = Demand("a canvas of 1280x1280", int(1280**2 * CELL), "hires.max_canvas", 1280)
UNET = Part("UNet", int(4.78 * GIB), (TILES, CANVAS), layer=26 * 2**20)
SDXL = (TEXT, VAE, UNET)
BUDGETS = [g * GIB // 16 for g in range(32, 300)]


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


def test_a_larger_budget_offloads_less_then_takes_more_tiles() -> None:
    made = [plan(SDXL, budget=budget, accelerator=True) for budget in BUDGETS if budget >= 5 * GIB]
    order = [(-OFFLOADS.index(one.offload), one.tile_batch) for one in made]
    assert order == sorted(order), "more memory made a plan slower"
    assert {one.offload for one in made} == set(OFFLOADS)
    assert {one.tile_batch for one in made if one.offload == "staged"} == set(range(1, 9))


def test_the_prediction_stays_within_the_budget() -> None:
    for budget in BUDGETS:
        try:
            made = plan(SDXL, budget=budget, accelerator=True)
        except ConfigError:
            continue
        assert made.peak <= made.budget == budget
        assert made.peak == max(peak.bytes for peak in made.peaks) == made.highest.bytes


def test_the_same_is_planned_the_same() -> None:
    assert plan(SDXL, budget=8 * GIB, accelerator=True) == plan(SDXL, budget=8 * GIB, accelerator=True)


@pytest.mark.parametrize("part", range(len(SDXL)))
def test_each_part_can_be_the_peak(part: int) -> None:
    heavy = replace(SDXL[part], demands=(Demand("something huge", 20 * GIB),))
    parts = (*SDXL[:part], heavy, *SDXL[part + 1 :])
    made = plan(parts, budget=48 * GIB, accelerator=True)
    assert made.highest.part == heavy.name and made.peak > 20 * GIB
    marked = [line for line in made.lines() if "<- the peak" in line]
    assert len(marked) == 1 and heavy.name in marked[0] and "something huge" in marked[0]
    with pytest.raises(ConfigError, match=f"The {heavy.name} needs"):
        plan(parts, budget=20 * GIB, accelerator=True)


@pytest.mark.parametrize("setting", ["memory.vae_whole_max", "hires.max_canvas", "tiled.tile_max"])
def test_what_cannot_fit_is_refused_with_the_value_that_makes_it_fit(setting: str) -> None:
    def at(parts: tuple[Part, ...], side: int) -> tuple[Part, ...]:
        """The parts with the named setting at `side`."""

        def fit(one: Demand) -> Demand:
            if one.setting != setting:
                return one
            return replace(one, bytes=one.bytes * side**2 // one.side**2, side=side)

        return tuple(replace(part, demands=tuple(map(fit, part.demands))) for part in parts)

    huge = at(SDXL, 8192)
    with pytest.raises(ConfigError) as error:
        plan(huge, budget=8 * GIB, accelerator=True)
    assert "--vram" in error.value.hint
    found = re.search(rf"--set {setting}=(\d+)", error.value.hint)
    assert found, error.value.hint
    assert plan(at(huge, int(found[1])), budget=8 * GIB, accelerator=True).peak <= 8 * GIB


def test_where_no_setting_helps_the_hint_says_how_much_memory_does() -> None:
    parts = (replace(UNET, demands=(TILES,), layer=0),)
    with pytest.raises(ConfigError) as error:
        plan(parts, budget=2 * GIB, accelerator=True)
    needed = re.search(r"--vram to ([\d.]+GB)", error.value.hint)
    assert needed, error.value.hint
    plan(parts, budget=parse_bytes(needed[1], what=""), accelerator=True)


def test_an_asked_batch_is_taken_or_refused_with_one_that_fits() -> None:
    assert plan(SDXL, budget=80 * GIB, accelerator=True, asked_batch=3).tile_batch == 3
    with pytest.raises(ConfigError) as error:
        plan(SDXL, budget=8 * GIB, accelerator=True, asked_batch=64)
    found = re.search(r"memory.tile_batch=(\d+)", error.value.hint)
    assert found, error.value.hint
    assert plan(SDXL, budget=8 * GIB, accelerator=True, asked_batch=int(found[1])).tile_batch == int(found[1])


def test_on_a_cpu_all_weights_count_and_batches_gain_nothing() -> None:
    made = plan(SDXL, budget=64 * GIB, accelerator=False)
    assert (made.tile_batch, made.offload) == (1, "resident")
    assert made.peak == sum(part.weights for part in SDXL) + max(part.demand(1).bytes for part in SDXL)


REGIONS = Demand("regions of 512x512", int(512**2 * CELL), regions=True)


def test_regions_have_a_batch_of_their_own() -> None:
    group = (TEXT, replace(UNET, demands=(REGIONS,)))
    made = plan_all([SDXL, group], budget=7 * GIB, accelerator=True)
    assert 1 <= made.tile_batch < made.region_batch <= 8, "a region is a quarter of a tile"
    assert made.peak <= 7 * GIB
    assert made.offload == plan(SDXL, budget=7 * GIB, accelerator=True).offload
    for budget in BUDGETS:
        try:
            one = plan_all([SDXL, group], budget=budget, accelerator=True)
        except ConfigError:
            continue
        found = [peaks(each, one.tile_batch, one.offload, one.region_batch, accelerator=True) for each in (SDXL, group)]
        assert one.peak == max(peak.bytes for each in found for peak in each) <= budget, "a group doesn't fit"


def test_groups_are_planned_together() -> None:
    """Neither's own plan holds for both: one takes turns with few tiles, the other streams with many."""
    few = (replace(UNET, weights=GIB, demands=(replace(TILES, bytes=2 * TILES.bytes),), layer=0),)
    streamed = (replace(UNET, weights=20 * GIB),)
    made = plan_all([few, streamed], budget=5 * GIB, accelerator=True)
    assert made.offload == "streamed" and made.tile_batch == plan(few, budget=5 * GIB, accelerator=True).tile_batch < 8


def test_what_works_alone_shares_an_accelerator_with_nothing() -> None:
    detector = Part("detector", GIB, (Demand("a picture", GIB),), alone=True)
    for offload in OFFLOADS:
        found = {peak.part: peak.weights for peak in peaks((*SDXL, detector), 1, offload, accelerator=True)}
        without = {peak.part: peak.weights for peak in peaks(SDXL, 1, offload, accelerator=True)}
        assert found == without | {"detector": GIB}
