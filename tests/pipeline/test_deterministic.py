"""--deterministic: torch is held to deterministic algorithms during the run, and the environment counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tilehires.config import Config
from tilehires.records import Record
from tilehires.stages.redenoise import PassStage


def run(source: Path, output: Path, *, deterministic: bool) -> Record:
    from tilehires import run

    values = {"run": {"deterministic": deterministic}, "generate": {"steps": 1}}
    (record,) = run(Config.load().with_layer(values, "test"), source, output).records
    assert record.error is None, record.error
    return record


@pytest.mark.parametrize("asked", [True, False])
def test_torch_is_held_to_it_for_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(tmp_path / "a.png")
    seen: list[bool] = []
    real = PassStage.run

    def spy(self: PassStage, *arguments: object) -> object:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return real(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(PassStage, "run", spy)
    run(tmp_path / "a.png", tmp_path / "out", deterministic=asked)
    assert seen == [asked]
    assert not torch.are_deterministic_algorithms_enabled(), "it stays switched on after the run"


def test_the_environment_is_in_the_fingerprint_only_then(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    loose, strict = (run(tmp_path / "a.png", tmp_path / str(asked), deterministic=asked) for asked in (False, True))
    assert loose.stages[0].fingerprint != strict.stages[0].fingerprint
    assert loose.output and strict.output


def test_two_such_runs_are_equal_byte_for_byte_in_tiles_and_with_an_ancestral_sampler(tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:64]
    Image.fromarray(np.stack([x * 4, y * 5, x * y // 12], -1).astype(np.uint8)).save(tmp_path / "a.png")
    values = {
        "run": {"deterministic": True},
        "generate": {"steps": 2, "sampler": "Euler a"},
        "hires": {"max_canvas": 256, "scale": 6.0, "denoise": 0.3, "upscaler": "Lanczos"},
        "tiled": {"tile_max": 192, "tile_min": 64, "overlap": 32},
    }
    from tilehires import run

    for name in ("one", "two"):
        (record,) = run(Config.load().with_layer(values, "test"), tmp_path / "a.png", tmp_path / name).records
        assert record.error is None, record.error
        assert len(record.stages[-3].facts["tiles"]) > 1, "the last pass wasn't cut into tiles"
    assert (tmp_path / "one" / "a.png").read_bytes() == (tmp_path / "two" / "a.png").read_bytes()
