"""Parameters of a detail pass beyond where and how much: face restoration, whole pictures, cycles, masks in time, modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny, tiny_controlnets, tiny_upscalers
from tests.batches import Workplace, workplace
from tests.finders import BITS, FACE, OUTSIDE, PLAIN, face, finding, paint, passes, pixels, regions, sampled_with
from tilehires.detectors import Detection
from tilehires.diffusion.control import BLANK
from tilehires.diffusion.inpaint import Inpaint
from tilehires.errors import ExitCode
from tilehires.geometry import Box
from tilehires.stages import repair
from tilehires.upscalers import restore


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, plain = tmp_path_factory.mktemp("models"), tiny.sd15()
    return {
        "plain": tiny.write_single_file(plain, folder / "plain.safetensors"),
        "net": tiny_controlnets.write(tiny_controlnets.controlnet(plain.unet), folder / "net.safetensors", "original"),
        "faces": tiny_upscalers.restoreformer(folder / "faces.safetensors"),
        "upscaler": tiny_upscalers.compact(folder / "two.safetensors"),
    }


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    paint(made)
    finding(monkeypatch, face(30, 20, 54, 44))
    monkeypatch.setattr(restore, "SIDE", 64)
    return made


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every sampling was called with."""
    return sampled_with(monkeypatch)


def words(models: dict[str, Path], more: str = "") -> tuple[str | Path, ...]:
    return (*PLAIN, *BITS, "--checkpoint", models["plain"], *passes(FACE + more + "}"))


def repaired(place: Workplace, name: str, models: dict[str, Path], more: str = "") -> np.ndarray:
    output = place.root / name
    ended = place.run(*words(models, more), output=output)
    assert ended.code == 0, ended.err + ended.out
    return pixels(place, output=output)


@pytest.fixture
def plain(place: Workplace, models: dict[str, Path], known: dict[str, np.ndarray]) -> np.ndarray:
    """The picture repaired without any of the parameters."""
    if "plain" not in known:
        known["plain"] = repaired(place, "plain", models)
    return known["plain"]


@pytest.fixture(scope="module")
def known() -> dict[str, np.ndarray]:
    return {}


def detail_facts(place: Workplace) -> dict[str, Any]:
    (stage,) = [stage for stage in place.images()["a.png"]["stages"] if stage["name"] == "detail.hires"]
    return stage["facts"]


def test_a_repaired_face_is_restored(place: Workplace, models: dict[str, Path], plain: np.ndarray) -> None:
    named = f", restore_face='{models['faces']}'"
    restored = repaired(place, "out", models, named)
    assert detail_facts(place)["faces_restored"] == 1
    assert (restored[~OUTSIDE] != plain[~OUTSIDE]).any()
    assert (restored[OUTSIDE] == plain[OUTSIDE]).all()
    assert (repaired(place, "unseen", models, named + ", restore_visibility=0") == plain).all()
    tiny_upscalers.restoreformer(models["faces"], seed=1)
    assert place.run(*words(models, named)).code == 0
    assert place.cached_stages("a.png") == {"hires": True, "detail.hires": False, "write": False}
    assert (pixels(place) != restored).any(), "another model's face"


def test_faces_are_looked_for_in_a_region_that_is_more_than_a_face(
    place: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def two(image: np.ndarray) -> tuple[Box, ...]:
        seen.append(image.shape)
        return (Box(8, 8, 24, 24), Box(30, 10, 50, 30))

    monkeypatch.setattr(repair, "frontal_faces", two)
    finding(monkeypatch, Detection("person", Box(30, 20, 54, 44), 0.9))
    repaired(place, "out", models, f", restore_face='{models['faces']}'")
    assert seen == [(64, 64, 3)], "the crop at its working size"
    assert detail_facts(place)["faces_restored"] == 2


@pytest.mark.parametrize("named", ["gone.pth", "upscaler"])
def test_a_missing_or_wrong_face_model_stops_the_run_before_the_first_image(
    place: Workplace, models: dict[str, Path], named: str
) -> None:
    ended = place.run(*words(models, f", restore_face='{models.get(named, named)}'"))
    assert ended.code == ExitCode.MISSING and "face restoration model" in ended.err and "hint:" in ended.err
    assert not (place.output / "a.png").exists()


def test_a_region_is_repainted_within_the_whole_picture(
    place: Workplace, models: dict[str, Path], plain: np.ndarray, sampled: list[dict[str, Any]]
) -> None:
    made = repaired(place, "out", models, ", only_masked=false")
    assert str(sampled[-1]["size"]) == "192x192", "192x160 in multiples of 64"
    assert (made[~OUTSIDE] != plain[~OUTSIDE]).any() and (made[OUTSIDE] == plain[OUTSIDE]).all()
    assert regions(place)[0]["fate"] == "repaired"


def test_cycles_repair_what_came_out_before(
    place: Workplace, models: dict[str, Path], plain: np.ndarray, sampled: list[dict[str, Any]]
) -> None:
    twice = repaired(place, "out", models, ", cycle=2")
    assert [one["noise"].name for one in sampled] == ["detail.hires.1", "detail.hires.1/2"]
    assert (twice[~OUTSIDE] != plain[~OUTSIDE]).any() and (twice[OUTSIDE] == plain[OUTSIDE]).all()
    assert [region["fate"] for region in regions(place)] == ["repaired"]


def test_a_cell_is_repainted_in_the_last_part_of_the_steps_that_its_mask_covers() -> None:
    class Noising:
        def add_noise(self, original: torch.Tensor, noise: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            return original

    mask = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 1, 5)
    inpaint = Inpaint(mask, torch.zeros(1, 4, 1, 5), gradual=True)
    ones = torch.ones(1, 4, 1, 5)
    rows = [inpaint.kept(ones, Noising(), ones, torch.ones(1), left)[0, 0, 0] for left in (0.75, 0.5, 0.25, 0.0)]
    assert torch.stack(rows).int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_a_mask_may_open_step_by_step(place: Workplace, models: dict[str, Path], sampled: list[dict[str, Any]]) -> None:
    plain = repaired(place, "plain", models)
    made = repaired(place, "out", models, ", noise_mask_feather=12")
    assert [one["inpaint"].gradual for one in sampled] == [False, True]
    assert (made[~OUTSIDE] != plain[~OUTSIDE]).any() and (made[OUTSIDE] == plain[OUTSIDE]).all()


def test_a_controlnets_module_makes_its_hint(
    place: Workplace, models: dict[str, Path], sampled: list[dict[str, Any]]
) -> None:
    net = (
        f", controlnet='{models['net']},{models['net']},{models['net']}', controlnet_module=['none','inpaint','canny']"
    )
    repaired(place, "out", models, net)
    own, inpaint, canny = (control.hint[0] for control in sampled[-1]["controls"])
    blank = (inpaint == BLANK).all(0)
    assert blank[4:60, 4:60].all() and not blank[:3].any(), "the box, dilated, in a crop that reaches 8 further"
    assert torch.equal(inpaint[:, ~blank], own[:, ~blank])
    assert torch.equal(sampled[-1]["controls"][1].part(Box(0, 0, 64, 64))[0], inpaint), "not clipped away"
    assert set(canny.unique().tolist()) <= {0.0, 1.0} and torch.equal(canny[0], canny[2])
