"""What detail passes repair with: ControlNets in the crop, inpainting checkpoints, LoRAs of single regions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import loras, tiny, tiny_controlnets, tiny_upscalers
from tests.batches import Workplace, workplace
from tests.finders import BITS, FACE, OUTSIDE, PLAIN, face, finding, paint, passes, pixels, sampled_with
from tilehires.config import Config
from tilehires.detectors import Detection
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import inspect
from tilehires.errors import ExitCode, MissingError
from tilehires.geometry import Size
from tilehires.memory import OFFLOADS, Offload, Plan
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.order import stages_of
from tilehires.stages.route import route
from tilehires.upscalers import restore


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
        "faces": tiny_upscalers.restoreformer(folder / "faces.safetensors"),
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
    return sampled_with(monkeypatch)


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


class Watched(Bay):
    """Notes which models are on the device, as if there were one."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[str] = set()

    def _move(self, modules: Iterable[torch.nn.Module], device: torch.device) -> None:
        for module in modules:
            (self.there.add if device is self.device else self.there.discard)(type(module).__name__)

    def upscaler(self, path: Path) -> Any:
        self.there.add("upscaler")
        return super().upscaler(path)

    def _put_upscaler_away(self) -> None:
        self.there.discard("upscaler")

    @property
    def streaming(self) -> bool:
        assert self._diffusion is not None
        return hasattr(self._diffusion[1].unet, "_hf_hook")


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_detector_and_another_model_are_never_on_the_device_together(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offload: Offload
) -> None:
    """Also after a pass with an upscaler that left its models there, and between two detail passes."""
    (tmp_path / "face.pt").write_bytes(b"stands for weights")
    bay, met, after = Watched(), [], set()

    def look(pixels: np.ndarray) -> list[Detection]:
        met.append((set(bay.there), bay.streaming))
        return [face(30, 20, 54, 44)]

    finding(monkeypatch, where=look)
    monkeypatch.setattr(restore, "SIDE", 64)
    one = {
        "detector": str(tmp_path / "face.pt"),
        "width": 64,
        "height": 64,
        "padding": 4,
        "steps": 1,
        "controlnet": str(models["net"]),
    }
    layer = {
        "generate": {"steps": 1, "cfg": 1},
        "hires": {"denoise": 0.3, "upscaler": "builtin"},
        "detail": {"passes": [one | {"restore_face": str(models["faces"])}, one]},
    }
    settings = Config.load("default").with_layer(layer, "test").settings
    way = route(Size(64, 48), settings.hires, max_pixels=10**9)
    image = StageResult(np.random.default_rng(3).random((48, 64, 3), np.float32))
    source, plan = Source(image.pixels), Plan(1, offload, (), 0)
    for stage in stages_of(settings, way, 7, inspect(str(models["plain"])))[:2]:
        bay.offload = offload
        image = stage.run(image, source, Tools(bay, plan, Silent()))
        after |= bay.there
    assert [region["fate"] for region in image.facts["regions"]] == ["repaired"] * 2
    assert met == [(set(), False)] * 2, "the models before it had to leave"
    assert ("UNet2DConditionModel" in after) == (offload == "resident"), "else nothing would have had to leave"
    assert not after & {"RestoreFormer", "ControlNetModel"}, "these leave when a pass is done"
