"""What detail passes demand of the device, from headers alone, and how many regions go together in which budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny, tiny_controlnets, tiny_upscalers
from tests.pipeline.test_needs import real as real  # noqa: PLC0414 - the fixture
from tilehires import memory
from tilehires.batch import needs
from tilehires.config import Config
from tilehires.config.settings import hires_pass
from tilehires.diffusion import checkpoints, controlnets
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.geometry import Box, Size
from tilehires.memory import GIB, Part
from tilehires.stages.detail import DetailStage, detail_stage
from tilehires.stages.route import Route, Step

F16 = torch.float16


def stage(base: Checkpoint, side: int = 4096, **values: Any) -> tuple[DetailStage, Config]:
    """A detail pass over an image of that side, and its run's settings."""
    layer = {
        "detail": {"passes": [{"detector": "face", **values}]},
        "generate": {"cfg": 7.0},
        "hires": {"upscaler": "Lanczos"},
    }
    size, checkpoint = Size(side, side // 2), base
    config = Config.load("default").with_layer(layer, "test").for_family(checkpoint.family.name)
    made = detail_stage(config.settings, Route(size, (Step("hires", size, Box.of(size)),)), 0, checkpoint, "hires")
    assert made is not None
    return made, config


def parts_of(base: Checkpoint, *, beside: bool = False, **values: Any) -> dict[str, Part]:
    made, config = stage(base, **values)
    passes = [(hires_pass(config.settings, 0), needs.Model(base, None, F16, (base,)))] if beside else []
    [parts] = needs.of_detail(made, config.settings, F16, passes, any_size=True)
    return {part.name: part for part in parts}


def groups(checkpoint: Checkpoint, **values: Any) -> list[list[Part]]:
    """Of a whole run: its other passes too."""
    made, config = stage(checkpoint, **values)
    values_ = hires_pass(config.settings, 0)
    model = needs.Model(checkpoint, None, F16)
    detail = needs.of_detail(made, config.settings, F16, [(values_, model)], any_size=True)
    return [needs.of_run(config.settings, values_, model), *detail]


@pytest.mark.parametrize(("family", "native"), [("sd1", 512), ("sdxl", 1024)])
def test_regions_are_counted_at_their_working_size(real: Any, family: str, native: int) -> None:
    parts = parts_of(real(family))
    assert [demand.what for demand in parts["UNet"].demands] == [f"regions of {native}x{native} with guidance"]
    one, two = (parts["UNet"].demand(1, regions).at(1, regions) for regions in (1, 2))
    assert two == 2 * one
    fixed = parts_of(real(family), width=256, height=512)
    assert fixed["UNet"].demand(1).bytes == one * 256 * 512 // native**2
    assert f"{native}x{native} in one piece" in [demand.what for demand in parts["VAE"].demands]
    assert parts["UNet"].weights == needs.Model(real(family), None, F16).checkpoint.unet_parameters * 2


def test_a_region_in_tiles_meets_more(real: Any) -> None:
    demands = parts_of(real("sd1"), large="tile")["UNet"].demands
    whats = {demand.what.split(" of ")[0]: demand for demand in demands}
    assert whats["tiles"].batched and whats["regions"].regions and not (whats["a region"].batched)
    assert whats["a region"].bytes >= whats["regions"].bytes
    small, _ = stage(real("sd1"), 640, large="tile")
    pieces = small.pieces(0)
    assert pieces.alone == Size(640, 320) and pieces.region == Size(512, 512)


def test_more_regions_go_together_in_a_larger_budget(real: Any) -> None:
    plans = [
        memory.plan_all(groups(real("sdxl")), budget=budget * GIB // 2, accelerator=True) for budget in range(12, 40)
    ]
    assert all(plan.peak <= plan.budget for plan in plans)
    staged = [plan.region_batch for plan in plans if plan.offload == "staged"]
    assert staged == sorted(staged) and staged[0] < staged[-1] == memory.MOST_TILES
    asked = memory.plan_all(groups(real("sdxl")), budget=80 * GIB, accelerator=True, asked_batch=3)
    assert (asked.region_batch, asked.tile_batch) == (3, 3)
    assert memory.plan_all(groups(real("sd1")), budget=64 * GIB, accelerator=False).region_batch == 1


def test_a_detector_has_the_device_to_itself(real: Any, tmp_path: Path) -> None:
    for name in ("face.pt", "face.onnx"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 << 20)
    parts = parts_of(real("sd1"), detector=str(tmp_path / "face.pt"))
    assert parts["detector"].alone and parts["detector"].weights == 200 << 20, "16 bits in the file, 32 at work"
    assert parts_of(real("sd1"), detector=str(tmp_path / "face.onnx"))["detector"].weights == 100 << 20
    assert "detector" not in parts_of(real("sd1")), "the cascade works on the CPU"
    others = [part for part in parts.values() if not part.alone]
    for offload in memory.OFFLOADS:
        with_it = {peak.part: peak for peak in memory.peaks(list(parts.values()), 1, offload, accelerator=True)}
        without = {peak.part: peak for peak in memory.peaks(others, 1, offload, accelerator=True)}
        assert with_it["detector"].weights == 200 << 20
        assert {name: with_it[name] for name in without} == without
    on_cpu = memory.peaks(list(parts.values()), 1, "resident", accelerator=False)
    assert on_cpu[0].weights == sum(part.weights for part in parts.values()), "host memory holds all"


def test_what_other_passes_leave_there_is_counted_where_models_stay(real: Any) -> None:
    checkpoint = real("sdxl")
    alone, beside = parts_of(checkpoint), parts_of(checkpoint, beside=True)

    def peak(parts: dict[str, Part], offload: memory.Offload) -> float:
        return max(one.bytes for one in memory.peaks(list(parts.values()), 1, offload, accelerator=True)) / GIB

    assert peak(beside, "staged") == peak(alone, "staged")
    assert peak(beside, "resident") - peak(alone, "resident") == pytest.approx(4.78 + 1.52, abs=0.01), "its refiner"


def test_a_passs_own_models_are_counted(tmp_path: Path) -> None:
    plain, inpainting = tiny.sd15(), tiny.sd15(1, channels=9)
    checkpoint = checkpoints.inspect(str(tiny.write_single_file(plain, tmp_path / "plain.safetensors")))
    other = tiny.write_single_file(inpainting, tmp_path / "inpainting.safetensors")
    net = tiny_controlnets.write(tiny_controlnets.controlnet(plain.unet), tmp_path / "net.safetensors", "original")
    face = tiny_upscalers.restoreformer(tmp_path / "face.safetensors")
    base = parts_of(checkpoint)
    own = parts_of(checkpoint, checkpoint=str(other))
    assert own["UNet"].weights == checkpoints.inspect(str(other), inpainting=True).unet_parameters * 2
    held = parts_of(checkpoint, controlnet=str(net), restore_face=str(face))
    extra = controlnets.parameters(controlnets.inspect(str(net), checkpoint)) * 2
    assert held["UNet"].weights - base["UNet"].weights == extra > 0
    assert held["UNet"].demand(1).bytes > base["UNet"].demand(1).bytes
    assert 0 < held["face restoration"].weights <= face.stat().st_size
    [only] = needs.of_detail(*_denoise_none(checkpoint), F16, [], any_size=True)
    assert [part.name for part in only] == ["detector"], "nothing is repainted"


def _denoise_none(checkpoint: Checkpoint) -> tuple[DetailStage, Any]:
    made, config = stage(checkpoint, denoise=0)
    return made, config.settings
