"""What detail passes repair with: ControlNets in the crop, inpainting checkpoints, LoRAs of single regions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import loras, tiny, tiny_controlnets
from tests.batches import Workplace, workplace
from tests.finders import FACE, PLAIN, face, finding, paint, passes, pixels, regions
from tilehires.batch import maker
from tilehires.detectors import Detection
from tilehires.diffusion import sampling
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import inspect
from tilehires.errors import ExitCode, MissingError

BITS = ("--set", "run.bits=16", "--set", "generate.cfg=1")
OUTSIDE = np.ones((160, 192), bool)
OUTSIDE[26:102, 46:122] = False  # the box, dilated by 4, blurred by a kernel of 11, at twice the size


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    plain, inpainting = tiny.sd15(), tiny.sd15(1, channels=9)
    loras.write(plain, folder / "style.safetensors", "kohya", loras.halves(plain))
    net, foreign = tiny_controlnets.controlnet(plain.unet), tiny_controlnets.controlnet(tiny.sdxl().unet)
    return {
        "plain": tiny.write_single_file(plain, folder / "plain.safetensors"),
        "inpainting": tiny.write_single_file(inpainting, folder / "inpainting.safetensors"),
        "folder": tiny.write_folder(inpainting, folder / "inpainting"),
        "net": tiny_controlnets.write(net, folder / "net.safetensors", "original"),
        "foreign": tiny_controlnets.write(foreign, folder / "foreign.safetensors", "diffusers"),
        "loras": folder,
    }


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    paint(made)
    finding(monkeypatch, face(30, 20, 54, 44))
    return made


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every sampling was called with."""
    stock, seen = sampling.sample, []

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(named)
        return stock(*given, **named)

    monkeypatch.setattr(sampling, "sample", noted)
    return seen


def repaired(place: Workplace, name: str, models: dict[str, Path], more: str = "", *words: str) -> np.ndarray:
    output = place.root / name
    flags = (*PLAIN, *BITS, "--checkpoint", models["plain"], *passes(FACE + more + "}"), *words)
    ended = place.run(*flags, output=output)
    assert ended.code == 0, ended.err + ended.out
    return pixels(place, output=output)


def test_a_controlnet_holds_a_region_to_its_own_crop(
    place: Workplace, models: dict[str, Path], sampled: list[dict[str, Any]]
) -> None:
    without = repaired(place, "without", models)
    net = f", controlnet='{models['net']}'"
    held = repaired(place, "held", models, net)
    (control,) = sampled[-1]["controls"]
    assert (control.scale, control.start, control.end) == (1.0, 0.0, 1.0)
    assert tuple(control.hint.shape) == (1, 3, 64, 64)
    upscaled = repaired(place, "plain", models, ", denoise=0")
    hint = control.hint[0].permute(1, 2, 0).numpy()
    assert np.abs(hint - upscaled[32:96, 52:116]).max() < 1e-4, "the box with 8 pixels around it, at its own size"
    assert (held[~OUTSIDE] != without[~OUTSIDE]).any()
    assert (held[OUTSIDE] == without[OUTSIDE]).all()
    assert (repaired(place, "zero", models, net + ", controlnet_scale=0") == without).all()
    assert (repaired(place, "never", models, net + ", controlnet_start=0.9") == without).all()


def test_a_changed_controlnet_redoes_the_pass_and_one_of_another_family_stops_the_run(
    place: Workplace, models: dict[str, Path], tmp_path: Path
) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(models["net"].read_bytes())
    words = (*PLAIN, *BITS, "--checkpoint", models["plain"], *passes(FACE + f", controlnet='{own}'}}"))
    assert place.run(*words).code == 0
    first = pixels(place)
    net = tiny_controlnets.controlnet(tiny.sd15().unet, seed=3)
    tiny_controlnets.write(net, own, "original")
    assert place.run(*words).code == 0
    assert place.cached_stages("a.png") == {"hires": True, "detail.hires": False, "write": False}
    assert (pixels(place) != first).any()
    foreign = passes(FACE + f", controlnet='{models['foreign']}'}}")
    ended = place.run(*PLAIN, "--checkpoint", models["plain"], *foreign, output=place.root / "foreign")
    assert ended.code == ExitCode.MISSING
    assert "doesn't fit the checkpoint" in ended.err


@pytest.mark.parametrize("layout", ["inpainting", "folder"])
def test_an_inpainting_checkpoint_sees_mask_and_masked_picture(
    place: Workplace, models: dict[str, Path], sampled: list[dict[str, Any]], layout: str
) -> None:
    plain = repaired(place, "plain", models)
    made = repaired(place, "made", models, f", checkpoint='{models[layout]}', denoise=1.0")
    seen = sampled[-1]["inpaint"].channels
    assert tuple(seen.shape) == (1, 5, 8, 8), "mask and masked latents beside the region's own"
    assert (made[~OUTSIDE] != plain[~OUTSIDE]).any()
    assert (made[OUTSIDE] == plain[OUTSIDE]).all()


def test_an_inpainting_checkpoint_is_refused_where_nothing_is_inpainted(
    place: Workplace, models: dict[str, Path]
) -> None:
    for name in ("inpainting", "folder"):
        with pytest.raises(MissingError, match="inpainting model: its UNet takes 9") as refused:
            inspect(str(models[name]))
        assert "[[detail]]" in refused.value.hint
        assert inspect(str(models[name]), inpainting=True).family.name == "sd1"
        assert "  inpainting  yes" in place.command("models", "inspect", models[name]).out
    words = ("--checkpoint", models["plain"], "--steps", "1", "--denoise", "0.5")
    ended = place.run(*words, "--set", f"hires.checkpoint={models['inpainting']}")
    assert ended.code == ExitCode.MISSING
    assert "[[detail]]" in ended.err


def test_a_region_has_the_loras_of_its_own_prompt(
    place: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, face(4, 4, 24, 24), face(60, 40, 84, 64))
    folder = ("--set", f"model.lora_folder={models['loras']}")
    plain = repaired(place, "plain", models, ", prompt='a cat'", *folder)
    second = repaired(place, "second", models, ", prompt='a cat [SEP] a cat <lora:style:0.8>'", *folder)
    assert (second[:70, :70] == plain[:70, :70]).all(), "the first region's prompt has none"
    assert (second[80:128, 120:168] != plain[80:128, 120:168]).any()
    ended = place.run(*PLAIN, "--checkpoint", models["plain"], *passes(FACE + ", prompt='<lora:none:1>'}"), *folder)
    assert ended.code == ExitCode.MISSING
    assert "none" in ended.err


def test_a_detector_and_a_diffusion_model_are_never_on_the_device_together(
    place: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bay would move them whose device isn't the CPU, and which leaves models there after their work."""
    there: set[str] = set()
    most: list[set[str]] = []

    class Resident(Bay):
        @contextlib.contextmanager
        def on_device(self, *modules: torch.nn.Module) -> Iterator[None]:
            there.update(type(module).__name__ for module in modules)
            assert "detector" not in there
            yield

        def clear_device(self) -> None:
            there.clear()

    def look(pixels: np.ndarray) -> list[Detection]:
        there.add("detector")
        most.append(set(there))
        return [face(30, 20, 54, 44)]

    finding(monkeypatch, where=look)
    monkeypatch.setattr(maker, "Bay", Resident)
    weights = place.root / "face.pt"
    weights.write_bytes(b"stands for weights")
    table = FACE.replace("'face'", f"'{weights}'") + "}"
    ended = place.run(*PLAIN, *BITS, "--checkpoint", models["plain"], *passes(table, table))
    assert ended.code == 0, ended.err
    assert [region["fate"] for region in regions(place)] == ["repaired"] * 2
    assert most == [{"detector"}] * len(most), "the first pass's models had to leave before the second detector came"
    assert "UNet2DConditionModel" in there
