"""Memory that runs out within a detail pass: fewer regions at once, then smaller crops, and nothing left of failed attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.test_memory_ladder import CHECKPOINT, PLAN, Limited, Spoken
from tests.finders import face, finding
from tilehires.batch import ladder
from tilehires.config import Config
from tilehires.detectors import Detection
from tilehires.diffusion.bay import Bay
from tilehires.errors import ImageError
from tilehires.geometry import Size
from tilehires.memory import Plan
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.detail import DetailStage
from tilehires.stages.order import stages_of
from tilehires.stages.route import route

FOUR = replace(PLAN, region_batch=4)
ONE = replace(PLAN, region_batch=1)
PASS = {"detector": "face", "width": 192, "height": 192, "steps": 1, "padding": 0, "crop_factor": 1, "mask_blur": 2}
TWO = (face(4, 4, 40, 40), face(60, 50, 90, 80))


class Fixed(Limited):
    """Has one memory only: the rungs that offload fall away."""

    @property
    def can_offload(self) -> bool:
        return False


def stage(**values: Any) -> DetailStage:
    """A pass over a picture of 224×192, of one step."""
    layer = {
        "generate": {"steps": 1, "cfg": 1},
        "hires": {"denoise": 0, "upscaler": "Lanczos"},
        "tiled": {"tile_min": 64, "tile_max": 128, "overlap": 32},
        "detail": {"passes": [PASS | values]},
    }
    settings = Config.load("default").with_layer(layer, "test").settings
    made = stages_of(settings, route(Size(112, 96), settings.hires, max_pixels=10**9), 7, CHECKPOINT)[1]
    assert isinstance(made, DetailStage)
    return made


def climb(one: DetailStage, bay: Bay, plan: Plan, **options: Any) -> tuple[StageResult, Plan, list[str]]:
    pixels = np.random.default_rng(3).random((192, 224, 3), np.float32)
    told = Spoken()
    source = Source(pixels[::2, ::2])
    made, used = ladder.run(one, StageResult(pixels), source, lambda p, _: Tools(bay, p, told), plan, **options)
    return made, used, told.notes


def enough(one: DetailStage, plan: Plan) -> np.ndarray:
    """The stage's pixels where memory is enough."""
    made, used, notes = climb(one, Limited("none", lambda *_: False), plan)
    assert used == plan and not notes and made.facts["degradations"] == []
    return made.pixels


def fates(made: StageResult) -> list[str]:
    return [region["fate"] for region in made.facts["regions"]]


def test_fewer_regions_go_together_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, *TWO)
    one = stage()
    made, used, _ = climb(one, Limited("UNet", lambda _, x: len(x) > 1), FOUR)
    assert made.facts["degradations"] == ["memory freed", "region batch 2", "region batch 1"]
    assert (used.region_batch, used.tile_batch, used.offload) == (1, FOUR.tile_batch, FOUR.offload)
    assert np.array_equal(made.pixels, enough(one, ONE)), "not as planned at that batch"
    assert fates(made) == ["repaired"] * 2 and not made.findings


def test_then_crops_are_smaller_and_that_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, *TWO)
    made, _, notes = climb(stage(), Fixed("UNet", lambda _, x: x.shape[-1] > 64), ONE)
    assert made.facts["degradations"][-2:] == ["models loaded anew", "crop size 128"]
    assert fates(made) == ["repaired"] * 2
    [finding_] = made.findings
    assert finding_.check == "memory" and "less at once: crop size 128" in finding_.message and notes


def test_a_region_larger_than_the_smaller_crop_is_repaired_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, face(4, 4, 90, 90))
    seen = []
    less = stage().smaller("UNet")
    assert less is not None and less.change == "crop size 128" and isinstance(less.stage, DetailStage)
    made, _, _ = climb(less.stage, Limited("UNet", lambda _, x: bool(seen.append(tuple(x.shape)))), ONE)
    assert fates(made) == ["repaired"] and seen[0][0] == 4 and max(seen[0][2:]) <= 64, "cells of two pixels"
    assert less.stage.smaller("UNet") is None, "down to 128 px"


def test_a_vae_that_runs_out_takes_regions_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, TWO[0])
    one = stage(width=768, height=128)
    made, _, _ = climb(one, Fixed("VAE", lambda _, x: x.shape[1] == 3 and x.shape[-1] >= 768), ONE)
    assert made.facts["degradations"][-1] == "vae_mode tiled" and "region batch" not in str(made.facts["degradations"])
    assert np.abs(made.pixels - enough(one, ONE)).max() <= 1 / 255


def test_a_detector_that_runs_out_works_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "face.pt").write_bytes(b"stands for weights")
    calls = 0

    def look(pixels: np.ndarray) -> Sequence[Detection]:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")
        return TWO

    finding(monkeypatch, where=look)
    one = stage(detector=str(tmp_path / "face.pt"))
    made, _, notes = climb(one, Fixed("none", lambda *_: False), FOUR)
    assert made.facts["degradations"] == ["memory freed", "models loaded anew", "detector on the CPU"]
    assert "memory ran out in the detector" in notes[0] and fates(made) == ["repaired"] * 2


def test_deterministic_runs_take_no_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    finding(monkeypatch, *TWO)
    with pytest.raises(ImageError, match="models loaded anew") as error:
        climb(stage(), Fixed("UNet", lambda _, x: len(x) > 1), FOUR, same_bytes=True)
    assert "memory.tile_batch" in error.value.hint and "region batch" not in error.value.message
