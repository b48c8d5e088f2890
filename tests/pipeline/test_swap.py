"""Another checkpoint or VAE for one pass, against runs that use it for all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.batches import Workplace, draw, outputs, workplace
from tilehires.batch import phases
from tilehires.diffusion import loading
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.errors import ExitCode
from tilehires.stages.redenoise import PassStage

QUICK = (
    "--steps",
    "1",
    "--denoise",
    "0.5",
    "--set",
    "generate.cfg=1",
    "--set",
    "hires.upscaler=Lanczos",
    "--seed",
    "1",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {name: tiny.sd15(seed) for seed, name in enumerate(("a", "b"))} | {"xl": tiny.sdxl()}
    files = {name: tiny.write_single_file(pipe, folder / f"{name}.safetensors") for name, pipe in made.items()}
    made["b"].vae.save_pretrained(folder / "vae")
    return files | {"vae": folder / "vae"}


@pytest.fixture
def work(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    draw(made.input / "a.png")
    return made


def pixels(work: Workplace, name: str, *words: str | Path) -> np.ndarray:
    ended = work.run(*QUICK, *words, output=work.root / name)
    assert ended.code == 0, ended.err
    with Image.open(work.root / name / "a.png") as image:
        return np.asarray(image.convert("RGB"))


def test_a_pass_with_its_own_checkpoint_is_a_run_with_that_checkpoint(work: Workplace, models: dict[str, Path]) -> None:
    swapped = pixels(work, "swapped", "--checkpoint", models["a"], "--set", f"hires.checkpoint={models['xl']}")
    whole = pixels(work, "whole", "--checkpoint", models["xl"], "--set", "model.clip_skip=1")
    plain = pixels(work, "plain", "--checkpoint", models["a"])
    assert (swapped == whole).all(), "pixels lie in between, so another family is no hindrance"
    assert (swapped != plain).any()


def test_a_pass_with_its_own_vae(work: Workplace, models: dict[str, Path]) -> None:
    own = pixels(work, "own", "--checkpoint", models["a"], "--set", f"hires.vae={models['vae']}")
    whole = pixels(work, "whole", "--checkpoint", models["a"], "--set", f"model.vae={models['vae']}")
    plain = pixels(work, "plain", "--checkpoint", models["a"])
    assert (own == whole).all()
    assert (own != plain).any()


def test_tiled_steps_take_their_own(work: Workplace, models: dict[str, Path]) -> None:
    words = ("--checkpoint", models["a"], "--scale", "3", "--set", f"tiled.checkpoint={models['b']}")
    ended = work.run(*QUICK, *words)
    assert ended.code == 0, ended.err
    ended = work.run(*QUICK, "--checkpoint", models["a"], "--scale", "3")
    cached = work.cached_stages("a.png")
    assert cached["hires"], "the first pass is the same"
    assert not cached["tiled.1"]


def test_a_swap_that_repaints_is_noted(work: Workplace, models: dict[str, Path]) -> None:
    words = ("--checkpoint", models["a"], "--set", f"hires.checkpoint={models['b']}")
    assert work.run(*QUICK, *words).code == 0
    assert not any("another checkpoint" in note for note in work.images()["a.png"]["notes"])
    assert work.run(*QUICK, *words, "--denoise", "0.6").code == 0
    assert any("another checkpoint" in note for note in work.images()["a.png"]["notes"])


@pytest.mark.parametrize("name", ["hires.checkpoint", "tiled.checkpoint", "hires.vae", "tiled.vae"])
def test_one_that_is_not_there_ends_the_run_before_any_work(
    work: Workplace, models: dict[str, Path], name: str
) -> None:
    ended = work.run(*QUICK, "--checkpoint", models["a"], "--set", f"{name}=nothing.safetensors")
    assert ended.code == 5
    assert "nothing.safetensors" in ended.err
    (work.input / "a.toml").write_text(f'[{name.partition(".")[0]}]\n{name.partition(".")[2]} = "x.safetensors"\n')
    assert work.run(*QUICK, "--checkpoint", models["a"]).code == 3
    assert "one for all images" in work.images()["a.png"]["error"]["message"]


def test_two_checkpoints_are_loaded_once_for_many_images(
    work: Workplace, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(work.input / "b.png", seed=1)
    draw(work.input / "c.png", seed=2)
    (work.input / "d.png").write_bytes(b"no picture")
    words = ("--checkpoint", models["a"], "--scale", "3", "--set", f"tiled.checkpoint={models['b']}")
    loaded: list[str] = []
    real = loading.load

    def load(checkpoint: Checkpoint, *rest: Any) -> Any:
        loaded.append(Path(checkpoint.reference).stem)
        return real(checkpoint, *rest)

    monkeypatch.setattr(loading, "load", load)
    assert work.run(*QUICK, *words).code == ExitCode.IMAGES_FAILED
    assert loaded == ["a", "b"]
    assert work.statuses() == {"a.png": "done", "b.png": "done", "c.png": "done", "d.png": "failed"}
    alone = work.root / "alone"
    with monkeypatch.context() as patch:
        patch.setattr(phases, "GROUP", 1)
        work.run(*QUICK, *words, output=alone)
    assert loaded[2:] == ["a", "b"] * 3
    assert outputs(work.output) == outputs(alone)
    assert work.run(*QUICK, *words).code == ExitCode.IMAGES_FAILED
    assert len(loaded) == 8, "nothing is begun again"


def test_where_models_are_swapped() -> None:
    class Stub(PassStage):
        def __init__(self, checkpoint: str) -> None:
            self.checkpoint = checkpoint  # type: ignore[assignment]

    def stub(name: str) -> Any:
        made = Stub(name)
        made.settings = SimpleNamespace(values=SimpleNamespace(denoise=0.0 if name == "-" else 0.3, vae=""))  # type: ignore[assignment]
        return made

    def at(names: str) -> tuple[int, ...]:
        return phases.swaps([stub(name) for name in names])

    assert at("a") == at("aaa") == at("-a-") == at("") == ()
    assert at("ab") == (1,)
    assert at("a-b") == (2,)
    assert at("aab-ba") == (2, 5)
