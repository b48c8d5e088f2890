"""Memory that runs out: every rung of the ladder, provoked through a Bay of the test's own and models with a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.batches import Workplace, draw
from tilehires import upscalers
from tilehires.batch import ladder
from tilehires.config import Config
from tilehires.diffusion import checkpoints
from tilehires.diffusion.bay import Bay
from tilehires.errors import ImageError
from tilehires.geometry import Size
from tilehires.memory import Plan
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.order import stages_of
from tilehires.stages.redenoise import PassStage
from tilehires.stages.route import route
from tilehires.upscalers.pillow import Kernel, KernelUpscaler

PLAN = Plan(4, "resident", (), 0)
CHECKPOINT = checkpoints.inspect("builtin")
Limit = Callable[["Limited", torch.Tensor], bool]


class Limited(Bay):
    """A Bay whose models run out of memory where `fails` says so of their input."""

    @property
    def can_offload(self) -> bool:
        return True

    def __init__(self, kind: str, fails: Limit) -> None:
        super().__init__()
        self.kind, self.fails, self.calls, self.loads = kind, fails, 0, 0
        self.placed: list[Any] = []

    def diffusion(self, checkpoint: Any, vae: str | None = None, loras: Any = ()) -> Any:
        model = super().diffusion(checkpoint, vae, loras)
        for kind, module in (("UNet", model.unet), ("VAE", model.vae.encoder), ("VAE", model.vae.decoder)):
            self._watch(kind, module)
        self._watch("text encoders", model.text_encoders[0])
        return model

    def upscaler(self, path: Path) -> Any:
        descriptor = super().upscaler(path)
        self._watch("upscaler", descriptor.model)
        return descriptor

    def _watch(self, kind: str, module: torch.nn.Module) -> None:
        if kind == self.kind and all(module is not one for one in self.placed):
            self.loads += 1
            self.placed.append(module)
            module.register_forward_pre_hook(self._check)

    def _check(self, module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        self.calls += 1
        if self.fails(self, given[0] if given else torch.empty(0)):
            raise torch.OutOfMemoryError("Tried to allocate 1.00 GiB")


@dataclass
class Spoken(Silent):
    """Keeps what was noted."""

    def __post_init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def stage(width: int, height: int, **sections: dict[str, Any]) -> PassStage:
    """A tiled step of a `width` × `height` image to twice its size, of one step."""
    base: dict[str, dict[str, Any]] = {
        "generate": {"steps": 1},
        "hires": {"denoise": 0.3, "max_canvas": 256, "upscaler": "Lanczos"},
        "tiled": {"tile_min": 64, "tile_max": 128, "overlap": 32},
    }
    layer = {name: base.get(name, {}) | sections.get(name, {}) for name in base.keys() | sections.keys()}
    settings = Config.load("default").with_layer(layer, "test").settings
    made = stages_of(settings, route(Size(width, height), settings.hires, max_pixels=10**9), 7, CHECKPOINT)[0]
    assert isinstance(made, PassStage)
    return made


def climb(one: PassStage, bay: Bay, plan: Plan = PLAN, **options: Any) -> tuple[StageResult, Plan, list[str]]:
    """The stage on a fixed picture, by the ladder; and what was said."""
    width, height = one.settings.size.width // 2, one.settings.size.height // 2
    pixels = np.random.default_rng(3).random((height, width, 3), np.float32)
    told = Spoken()
    made, used = ladder.run(one, StageResult(pixels), Source(pixels), lambda p, _: Tools(bay, p, told), plan, **options)
    return made, used, told.notes


def whole(one: PassStage, plan: Plan = PLAN) -> np.ndarray:
    """The stage's pixels where memory is enough."""
    made, used, notes = climb(one, Limited("none", lambda *_: False), plan)
    assert used == plan and not notes and made.facts["degradations"] == []
    return made.pixels


@pytest.fixture(scope="module")
def tiles() -> tuple[PassStage, np.ndarray]:
    one = stage(160, 48)
    assert len(one.grid(2).tiles) >= 3
    return one, whole(one)


def test_what_fails_once_succeeds_after_freeing(tiles: tuple[PassStage, np.ndarray]) -> None:
    one, want = tiles
    made, used, notes = climb(one, Limited("UNet", lambda bay, _: bay.calls == 1))
    assert made.facts["degradations"] == ["memory freed"] and used == PLAN and len(notes) == 1
    assert np.array_equal(made.pixels, want) and not made.findings


@pytest.mark.parametrize("most", [2, 1])
def test_the_batch_is_halved_until_it_fits(tiles: tuple[PassStage, np.ndarray], most: int) -> None:
    one, want = tiles
    made, used, _ = climb(one, Limited("UNet", lambda _, x: len(x) > most))
    rungs = ["memory freed", "tile batch 2", "tile batch 1"]
    assert made.facts["degradations"] == rungs[: 2 if most == 2 else 3]
    assert used.tile_batch == most and used.offload == PLAN.offload
    assert np.array_equal(made.pixels, whole(one, replace(PLAN, tile_batch=most))), "not as planned at that batch"
    assert np.abs(made.pixels - want).max() <= 1 / 255
    assert not made.findings, "another batch is within rounding: nothing to flag"


def test_a_failure_in_mid_stage_leaves_nothing_behind(tiles: tuple[PassStage, np.ndarray]) -> None:
    one, _ = tiles
    made, used, _ = climb(one, Limited("UNet", lambda bay, x: len(x) > 2 and bay.calls in (1, 2) or bay.calls == 3))
    assert used.tile_batch < PLAN.tile_batch
    assert np.array_equal(made.pixels, whole(one, replace(PLAN, tile_batch=used.tile_batch)))


@pytest.mark.parametrize("enough", ["staged", "streamed"])
def test_then_more_is_offloaded(tiles: tuple[PassStage, np.ndarray], enough: str) -> None:
    one, _ = tiles
    order = ["resident", "staged", "streamed"]
    made, used, _ = climb(one, Limited("UNet", lambda bay, _: order.index(bay.offload) < order.index(enough)))
    rungs = ["memory freed", "tile batch 2", "tile batch 1", "models staged", "models streamed"]
    assert made.facts["degradations"] == rungs[: 4 if enough == "staged" else 5]
    assert (used.tile_batch, used.offload) == (1, enough)
    assert np.array_equal(made.pixels, whole(one, replace(PLAN, tile_batch=1))), "offloading changed bits"


def test_then_models_are_loaded_anew() -> None:
    one = stage(160, 48)
    bay = Limited("UNet", lambda bay, _: bay.loads == 1)
    made, _, _ = climb(one, bay, replace(PLAN, tile_batch=1))
    assert made.facts["degradations"] == ["memory freed", "models staged", "models streamed", "models loaded anew"]
    assert bay.loads == 2 and not made.findings


def test_at_last_the_tile_shrinks_and_that_is_flagged() -> None:
    one = stage(160, 48, tiled={"tile_min": 64, "tile_max": 256, "overlap": 32})
    side = one.grid(2).tile.width
    made, _, _ = climb(one, Limited("UNet", lambda _, x: x.shape[-1] >= side), replace(PLAN, tile_batch=1))
    assert made.facts["degradations"][-1].startswith("tile_max ")
    assert made.facts["tile"][0] < 2 * side
    [finding] = made.findings
    assert finding.check == "memory" and finding.severity == "warning" and "smaller tiles" in finding.message
    assert made.pixels.shape == (96, 320, 3)


def test_a_canvas_in_one_piece_is_cut_at_last() -> None:
    one = stage(96, 96)
    assert len(one.grid(2).tiles) == 1
    made, _, _ = climb(one, Limited("UNet", lambda _, x: x.shape[-1] > 80), replace(PLAN, tile_batch=1))
    assert len(made.facts["tiles"]) > 1 and made.findings


def test_a_vae_that_runs_out_goes_in_tiles() -> None:
    one = stage(384, 32, tiled={"tile_max": 512, "overlap": 32}, hires={"max_canvas": 1024})
    made, used, _ = climb(one, Limited("VAE", lambda _, x: x.shape[1] == 3 and x.shape[-1] >= 768))
    assert "tile batch 2" not in made.facts["degradations"], "a smaller batch spares no VAE"
    assert made.facts["degradations"][-1] == "vae_mode tiled" and used.tile_batch == PLAN.tile_batch
    assert np.abs(made.pixels - whole(one)).max() <= 1 / 255


def test_an_upscaler_that_runs_out_takes_smaller_tiles() -> None:
    one = stage(160, 32, hires={"denoise": 0.0, "upscaler": "builtin"}, memory={"upscaler_tile": 256})
    made, _, _ = climb(one, Limited("upscaler", lambda _, x: x.shape[-1] >= 90))
    assert made.facts["degradations"][-2:] == ["upscaler_tile 128", "upscaler_tile 64"]
    assert made.findings and np.abs(made.pixels - whole(one)).max() < 0.1


@pytest.mark.parametrize("part", ["UNet", "text encoders"])
def test_where_nothing_helps_the_image_fails_with_a_hint(part: str) -> None:
    one = stage(96, 96)
    with pytest.raises(ImageError, match=f"memory ran out in the {part}") as error:
        climb(one, Limited(part, lambda *_: True))
    assert "--vram" in error.value.hint and "models loaded anew" in error.value.message


def test_deterministic_runs_take_only_rungs_that_change_no_bit(tiles: tuple[PassStage, np.ndarray]) -> None:
    one, want = tiles
    made, used, _ = climb(one, Limited("UNet", lambda bay, _: bay.offload != "streamed"), same_bytes=True)
    assert used.tile_batch == PLAN.tile_batch and np.array_equal(made.pixels, want)
    with pytest.raises(ImageError) as error:
        climb(one, Limited("UNet", lambda _, x: len(x) > 1), same_bytes=True)
    assert "memory.tile_batch" in error.value.hint


def test_other_errors_pass_through() -> None:
    class Broken(Limited):
        def _check(self, module: torch.nn.Module, given: tuple[Any, ...]) -> None:
            raise RuntimeError("shapes don't match")

    with pytest.raises(RuntimeError, match="shapes"):
        climb(stage(96, 96), Broken("UNet", lambda *_: False))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((9,), np.dtype(np.float32)),  # type: ignore[attr-defined]
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_what_libraries_say_is_understood(error: BaseException) -> None:
    assert ladder.out_of_memory(error)


@dataclass(frozen=True)
class Greedy(KernelUpscaler):
    """Enlarges small pictures, and has no memory for others."""

    def upscale(self, image: Any, size: Size, **options: Any) -> Any:  # type: ignore[override]
        if size.width > 40:
            raise MemoryError
        return super().upscale(image, size)


def test_an_image_that_never_fits_fails_and_the_batch_goes_on(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:
        name = "greedy"

        def load(self) -> Any:
            return lambda models: Greedy("greedy", Kernel.BICUBIC)

    monkeypatch.setattr(upscalers, "_installed", lambda: (Entry(),))
    draw(place.input / "a-large.png", 48, 48)
    draw(place.input / "b-small.png", 16, 16)
    ended = place.run("--denoise", "0", "--set", "hires.upscaler=greedy")
    assert ended.code == 3
    assert place.statuses() == {"a-large.png": "failed", "b-small.png": "done"}
    error = place.images()["a-large.png"]["error"]
    assert error["type"] == "ImageError" and "memory ran out in the upscaler" in error["message"] and error["hint"]
    assert place.images()["b-small.png"]["degraded"] is False
