"""Models that are missing, damaged or of another kind: the run doesn't begin, and says what to do."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.batches import Workplace, draw, outputs, refused
from tilehires.errors import ExitCode


def test_a_missing_checkpoint(place: Workplace) -> None:
    draw(place.input / "a.png")
    said = refused(place.run("--checkpoint", "/no/such/model.safetensors"), ExitCode.MISSING)
    assert "model.safetensors" in said and "--checkpoint builtin" in said


def model_file(path: Path, *names: str) -> Path:
    save_file({name: torch.zeros(4, 4) for name in names}, path)
    return path


FLUX = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "img_in.weight", "txt_in.weight")
MODELS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "flux": ("flux.safetensors", lambda path: model_file(path, *FLUX), "Stable Diffusion"),
    "unknown": ("odd.safetensors", lambda path: model_file(path, "some.weight"), "Stable Diffusion"),
    "garbage": ("bad.safetensors", lambda path: path.write_bytes(b"\x10garbage" * 100), "bad.safetensors"),
    "empty": ("none.safetensors", lambda path: path.write_bytes(b""), "none.safetensors"),
    "huge header": ("huge.safetensors", lambda path: path.write_bytes(struct.pack("<Q", 2**60)), "huge.safetensors"),
    "pickle": ("old.ckpt", lambda path: path.write_bytes(b"\x80\x02}"), "safetensors"),
    "folder": ("model", lambda path: path.mkdir(), "model_index.json"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_checkpoint_we_can_run(place: Workplace, name: str) -> None:
    file, make, expected = MODELS[name]
    draw(place.input / "a.png")
    make(place.root / file)
    assert expected in refused(place.run("--checkpoint", place.root / file), ExitCode.MISSING)
    assert not outputs(place.output)


def test_flux_is_called_by_its_name(place: Workplace) -> None:
    draw(place.input / "a.png")
    path = model_file(place.root / "m.safetensors", *FLUX)
    assert "flux" in refused(place.run("--checkpoint", path), ExitCode.MISSING).lower()


def test_a_hub_model_that_is_not_here_is_not_downloaded(place: Workplace) -> None:
    draw(place.input / "a.png")
    assert "tilehires models fetch" in refused(place.run("--checkpoint", "somebody/something"), ExitCode.MISSING)


@pytest.mark.parametrize("name", ["4x.pth", "4x.safetensors"])
def test_upscaler_files_that_are_missing_or_damaged(place: Workplace, name: str) -> None:
    draw(place.input / "a.png")
    path = place.root / name
    assert name in refused(place.run("--set", f"hires.upscaler={path}"), ExitCode.MISSING)
    path.write_text("no weights", encoding="utf-8")
    assert name in refused(place.run("--set", f"hires.upscaler={path}"), ExitCode.MISSING)
    assert not outputs(place.output)


def test_a_missing_vae(place: Workplace) -> None:
    draw(place.input / "a.png")
    assert "model.vae" in refused(place.run("--set", "model.vae=/no/such/vae.safetensors"), ExitCode.MISSING)
