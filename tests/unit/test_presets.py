"""Presets: those that are shipped, one's own, and what stands on another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilehires
from tilehires.config import Config
from tilehires.config.layers import sections
from tilehires.config.presets import shipped
from tilehires.config.settings import generate_pass, hires_pass
from tilehires.errors import ConfigError, MissingError

OWN = {"model": {"checkpoint": "mine.safetensors"}}


@pytest.mark.parametrize("name", shipped())
def test_every_preset_loads_and_keeps_its_hands_off_prompts(name: str) -> None:
    config = Config.load(name)
    spoken = {f"{s}.{k}" for layer in config.layers for s, values in layer.values.items() for k in values}
    forbidden = {f"{s}.{k}" for s in sections() for k in ("prompt", "negative_prompt", "seed")}
    assert not spoken & forbidden, "a preset holds no prompt of its own, only prompt_add"
    assert 0 < config.settings.hires.denoise < 0.5 or name == "simple"


def test_the_presets_that_the_issue_names_are_there() -> None:
    named = {"default", "sd15", "sdxl", "photo", "anime", "overnight-8gb", "sdxl-refiner", "simple"}
    assert named <= set(shipped())


def test_the_refiner_preset_is_the_recipe_and_wants_a_refiner() -> None:
    config = Config.load("sdxl-refiner").with_layer(OWN, "flag --checkpoint")
    with pytest.raises(MissingError) as caught:
        config.require_checkpoint()
    assert "--set hires.checkpoint=" in caught.value.hint
    config = config.with_layer({"hires": {"checkpoint": "refiner.safetensors"}}, "flag --set")
    assert config.require_checkpoint() == "mine.safetensors"
    first, values = generate_pass(config.settings, 7), hires_pass(config.settings, 7)
    assert (config.settings.generate.width, config.settings.generate.height, config.settings.hires.scale) == (
        768,
        768,
        2,
    )
    assert (values.upscaler, values.checkpoint, values.denoise, values.steps) == (
        "Lanczos",
        "refiner.safetensors",
        0.35,
        25,
    )
    assert first.seed == values.seed == 7


def test_extends_puts_the_base_below() -> None:
    night, sdxl = Config.load("overnight-8gb"), Config.load("sdxl")
    assert night.settings.hires.denoise == sdxl.settings.hires.denoise
    assert night.origins["hires.denoise"] == "preset sdxl"
    assert night.origins["memory.vram"] == "preset overnight-8gb"


def test_extends_of_a_text_too_long_for_a_name_is_refused(tmp_path: Path) -> None:
    for base in ("x" * 300, "x" * 300 + ".toml"):
        (tmp_path / "a.toml").write_text(f'extends = "{base}"')
        with pytest.raises(ConfigError, match="There is no"):
            Config.load(tmp_path / "a.toml")


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(ConfigError, match="extends itself"):
        Config.load(tmp_path / "a.toml")


def test_a_preset_of_the_working_folder_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").write_text("[hires]\nscale = 3\n")
    (tmp_path / "configs" / "default.toml").write_text("[another.tool]\nx = 1\n")
    monkeypatch.chdir(tmp_path)
    assert Config.load("mine").settings.hires.scale == 3, "and a foreign configs/default.toml must do no harm"


def test_presets_work_outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config.load("sdxl").settings.tiled.tile_max == 1152


def test_presets_work_from_an_installed_wheel(tmp_path: Path) -> None:
    package = Path(tilehires.__file__).parent
    project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["configs"] == "tilehires/presets", "config/presets.py looks for them there"
    # As the wheel lays it out, far from the repository; only what settings need.
    installed = tmp_path / "site" / "tilehires"
    shutil.copytree(package / "config", installed / "config")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, installed / name)
    shutil.copytree(package.parent / "configs", installed / "presets")
    code = "from tilehires.config import Config; print(Config.load('overnight-8gb').settings.memory.vram)"
    environment = {**os.environ, "PYTHONPATH": str(installed.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.stdout.strip() == "8GB", done.stderr
