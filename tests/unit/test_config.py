"""Settings: precedence, origins, what is refused and in which words. No models."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilehires.config import Config, Rank, Settings, parse_set
from tilehires.config.layers import sections
from tilehires.config.presets import shipped
from tilehires.config.settings import generate_pass, hires_pass, tiled_pass
from tilehires.config.toml import effective_toml, literal, starting_toml
from tilehires.errors import ConfigError, ExitCode, ImageError, MissingError

OWN = {"model": {"checkpoint": "mine.safetensors"}}


def own(family: str = "sdxl") -> Config:
    """The default preset with a checkpoint of the user's."""
    return Config.load().with_layer(OWN, "flag --checkpoint").for_family(family)


# Precedence


def test_flag_over_sidecar_over_preset_over_metadata_over_default(tmp_path: Path) -> None:
    sidecar = tmp_path / "photo.toml"
    preset = tmp_path / "mine.toml"
    steps = []
    config = Config.load()
    steps.append(config)
    config = config.for_image({"steps": 11})
    steps.append(config)
    preset.write_text("[generate]\nsteps = 12\n")
    config = Config.load(preset).for_image({"steps": 11})
    steps.append(config)
    sidecar.write_text("[generate]\nsteps = 13\n")
    config = Config.load(preset).for_image({"steps": 11}, [sidecar])
    steps.append(config)
    config = Config.load(preset).with_layer({"generate": {"steps": 14}}, "flag --set")
    steps.append(config.for_image({"steps": 11}, [sidecar]))
    seen = [(step.settings.generate.steps, step.origins["generate.steps"]) for step in steps]
    assert seen == [
        (Config.load().settings.generate.steps, "preset default"),
        (11, "image metadata"),
        (12, "mine.toml"),
        (13, "sidecar photo.toml"),
        (14, "flag --set"),
    ]


def test_every_setting_has_an_origin() -> None:
    origins = Config.load().origins
    names = {f"{name}.{key}" for name, section in sections().items() for key in section.model_fields}
    assert set(origins) == names, "each setting needs an origin: see layers.merge"
    assert origins["tiled.overlap"] == "default"


def test_a_layer_of_a_lower_rank_does_not_win_for_being_put_later() -> None:
    config = Config.load().with_layer({"hires": {"scale": 3}}, "flag --scale")
    config = config.with_layer({"hires": {"scale": 4}}, "preset late", Rank.PRESET)
    assert (config.settings.hires.scale, config.origins["hires.scale"]) == (3, "flag --scale")


def test_frozen() -> None:
    config = Config.load()
    with pytest.raises(ValueError, match="frozen"):
        config.settings.hires.scale = 3  # pyright: ignore[reportAttributeAccessIssue]


# Metadata


METADATA = {
    "prompt": "a fox",
    "negative_prompt": "blur",
    "seed": 7,
    "steps": 33,
    "cfg": 9.0,
    "sampler": "Heun",
    "scheduler": "Karras",
    "clip_skip": 2,
}


def test_metadata_of_an_unknown_or_the_same_family_counts_whole() -> None:
    for family in (None, "sdxl"):
        settings = own().for_image(METADATA, image_family=family).settings
        assert settings.generate.model_dump(include=set(METADATA)) == {
            key: value for key, value in METADATA.items() if key != "clip_skip"
        }
        assert settings.model.clip_skip == 2


def test_of_another_family_only_prompts_and_seed_count() -> None:
    config = own().for_image(METADATA, image_family="sd1")
    generate = config.settings.generate
    assert (generate.prompt, generate.negative_prompt, generate.seed) == ("a fox", "blur", 7)
    assert config.origins["generate.sampler"] == "family sdxl"
    assert config.settings.model.clip_skip == 1
    assert "left out" in config.notes[0]


def test_the_builtin_model_takes_no_sampler_from_images_of_other_models() -> None:
    config = Config.load().for_image({**METADATA, "model": "dreamshaper_8"})
    assert config.settings.generate.prompt == "a fox"
    assert config.origins["generate.sampler"] == "preset default"
    assert "dreamshaper_8" in config.notes[0]
    again = Config.load().for_image({**METADATA, "model": "builtin"})
    assert again.settings.generate.sampler == "Heun"


@pytest.mark.parametrize("bad", [{"cfg": math.inf}, {"cfg": -1}, {"steps": 10**9}, {"seed": 2**70}, {"clip_skip": 0}])
def test_metadata_out_of_range_is_left_out_with_a_note(bad: dict[str, object]) -> None:
    config = own().for_image({"prompt": "a fox", **bad})
    assert config.settings.generate.prompt == "a fox", "one bad value must not cost the others"
    assert next(iter(bad)) in config.notes[0]


def test_seeds_of_64_bits_are_kept() -> None:
    assert own().for_image({"seed": 2**64 - 1}).settings.generate.seed == 2**64 - 1


def test_a_sampler_that_cannot_run_is_left_out_with_a_note() -> None:
    config = own().for_image(METADATA, can_sample=lambda sampler, scheduler: sampler != "Heun")
    assert config.origins["generate.sampler"] == "family sdxl"
    assert config.settings.generate.steps == 33
    assert "Heun" in config.notes[0]


def test_a_sampler_from_a_flag_is_not_asked_about() -> None:
    config = own().with_layer({"generate": {"sampler": "Odd", "scheduler": "Karras"}}, "flag --set")
    assert config.for_image(METADATA, can_sample=lambda *_: False).settings.generate.sampler == "Odd"


# The checkpoint and what is tuned for it


def test_the_builtin_models_values_step_aside_for_another_checkpoint() -> None:
    builtin = Config.load().settings
    config = own("sdxl")
    assert config.settings.generate.cfg != builtin.generate.cfg
    assert (config.origins["generate.cfg"], config.origins["hires.denoise"]) == ("family sdxl", "family sdxl")
    assert config.origins["hires.scale"] == "preset default", "the size asked for isn't bound to a model"
    assert config.settings.tiled.tile_max == Config.load("sdxl").settings.tiled.tile_max


def test_metadata_wins_over_what_suits_the_family() -> None:
    assert own().for_image({"cfg": 1.5}).settings.generate.cfg == 1.5


def test_a_preset_that_needs_a_checkpoint_says_so() -> None:
    with pytest.raises(MissingError) as caught:
        Config.load("sd15").require_checkpoint()
    assert caught.value.exit_code == ExitCode.MISSING
    assert "--checkpoint" in caught.value.hint
    assert Config.load("sd15").with_layer(OWN, "flag --checkpoint").require_checkpoint() == "mine.safetensors"
    assert Config.load().require_checkpoint() == "builtin"


# What is refused, and how


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[hires]\ndenoize = 0.3", "hires.denoise"),
        ("[hires]\ncfg_scale = 7", "hires.cfg"),
        ("[run]\nscale = 2", "hires.scale"),
        ("denoise = 0.3", "hires.denoise"),
        ("[hire]\nscale = 2", "[hires]"),
        ("[zzz]\nscale = 2", "Sections are model, generate"),
        ("[hires]\ndistilled_cfg = 3.5", "guidance_scale=3.5"),
    ],
)
def test_unknown_names_are_refused_with_what_was_meant(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert hint in caught.value.hint
    assert "mine.toml" in caught.value.message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hires": {"denoise": 3}}, "hires.denoise = 3 (flag) must be at most 1"),
        ({"hires": {"scale": 0}}, "hires.scale = 0 (flag) must be greater than 0"),
        ({"hires": {"scale": math.nan}}, "must be a finite number"),
        ({"hires": {"steps": "many"}}, "must be a valid integer"),
        ({"hires": {"steps": True}}, "hires.steps takes no true or false"),
        ({"memory": {"vram": "8 pounds"}}, "memory.vram = 8 pounds (flag) is not understood"),
        ({"run": {"device": "gpu"}}, "run.device = gpu (flag) is not understood"),
        ({"run": {"format": "bmp"}}, "run.format = bmp (flag) must be 'png', 'jpeg', "),
        ({"tiled": {"tile_min": 900, "tile_max": 800}}, "tiled.tile_min = 900 is more than tile_max = 800"),
    ],
)
def test_values_are_refused_in_words(values: dict[str, dict[str, object]], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load().with_layer(values, "flag")
    assert words in caught.value.message
    assert caught.value.hint, "say what is allowed"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[hires\nscale = 2", "is not TOML"),
        (b"[hires]\nupscaler = C:\\models", "is not TOML"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"x = " + b"[" * 5000, "mine.toml"),
        (b"#" * (1 << 21), "more than"),
        (b"hires = 3", "is a section"),
        (b"extends = 3", "extends must be"),
    ],
)
def test_broken_files_are_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        Config.load(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf[hires]\nscale = 3\n")
    assert Config.load(path).settings.hires.scale == 3


@pytest.mark.parametrize("name", ["sdx", "nowhere.toml", "no/where", "."])
def test_a_preset_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(name)
    assert "sdxl" in caught.value.hint


# Sidecars


def test_a_text_beside_the_image_is_its_prompt(tmp_path: Path) -> None:
    text, table = tmp_path / "photo.txt", tmp_path / "photo.toml"
    text.write_text("a red fox\nin snow\n")
    table.write_text("[hires]\ndenoise = 0.2\n")
    config = Config.load().for_image({"prompt": "a fox", "seed": 3}, [table, text])
    assert config.settings.generate.prompt == "a red fox\nin snow"
    assert config.origins["generate.prompt"] == "sidecar photo.txt"
    assert (config.settings.hires.denoise, config.settings.generate.seed) == (0.2, 3)
    table.write_text('[generate]\nprompt = "from the table"\n')
    assert Config.load().for_image({}, [table, text]).settings.generate.prompt == "from the table"


def test_an_empty_text_says_nothing(tmp_path: Path) -> None:
    text = tmp_path / "photo.txt"
    text.write_text(" \n")
    assert Config.load().for_image({"prompt": "a fox"}, [text]).settings.generate.prompt == "a fox"


def test_a_web_uis_infotext_beside_the_image_is_not_taken_for_a_prompt(tmp_path: Path) -> None:
    text = tmp_path / "photo.txt"
    text.write_text("a fox\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, Seed: 5\n")
    generate = Config.load().for_image({}, [text]).settings.generate
    assert (generate.prompt, generate.negative_prompt) == ("a fox", "blur")


def test_a_broken_sidecar_fails_its_image_not_the_batch(tmp_path: Path) -> None:
    for name, content in (("a.toml", b"[hires]\ndenoise = 9"), ("b.toml", b"[hire"), ("c.txt", b"\xff\xfe")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            Config.load().for_image({}, [path])
        assert name in caught.value.message and caught.value.hint


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hires.denoise=0.3", 0.3),
        (" hires.scale = 3 ", 3),
        ("run.strict=true", True),
        ("generate.prompt=a fox, in snow # 1", "a fox, in snow # 1"),
        ("generate.prompt=2024", "2024"),
        ('generate.prompt="a = b"', "a = b"),
        ("generate.prompt=5\nseed = 3", "5\nseed = 3"),
        ("generate.prompt=", ""),
        ("run.bits=16", "16"),
        ("memory.vram=8GB", "8GB"),
        ("check.only=black, size", ["black", "size"]),
        ('check.only=["black"]', ["black"]),
        ("hires.upscaler=4x=x.pth", "4x=x.pth"),
    ],
)
def test_set_takes_toml_and_bare_text(text: str, value: object) -> None:
    values = parse_set(text)
    [(section, keys)] = values.items()
    assert list(keys.values()) == [value]
    Config.load().with_layer(values, f"--set {section}")


@pytest.mark.parametrize("text", ["", "=", "hires", "hires.denoise", "denoise=3", ".x=1", "hires.=1"])
def test_set_without_a_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="section.key=value"):
        parse_set(text)


# Inheritance


def test_a_refiner_is_inherited_unless_a_pass_has_a_checkpoint_of_its_own() -> None:
    def refiners(**settings: dict[str, str]) -> tuple[str | None, str | None]:
        made = Config.load().with_layer({"generate": {"refiner": "r", "switch_at": 0.7}, **settings}, "test").settings
        assert generate_pass(made, 0).refiner == "r"
        return hires_pass(made, 0).refiner, tiled_pass(made, 0).refiner

    assert refiners() == ("r", "r")
    assert refiners(hires={"refiner": ""}) == (None, None)
    assert refiners(hires={"checkpoint": "other"}) == (None, None)
    assert refiners(tiled={"checkpoint": "other"}) == ("r", None)
    assert refiners(tiled={"checkpoint": "other", "refiner": "s"}) == ("r", "s")


def test_passes_inherit_downwards() -> None:
    values = {
        "generate": {"prompt": "a fox", "cfg": 5},
        "hires": {"prompt_add": "sharp", "denoise": 0.4, "upscaler": "Latent"},
        "tiled": {"steps": 9, "cfg": 3},
    }
    settings = Config.load().with_layer(values, "flag").settings
    first, then = hires_pass(settings, 5), tiled_pass(settings, 5)
    assert (first.prompt, first.cfg, first.denoise, first.seed) == ("a fox, sharp", 5, 0.4, 5)
    assert (then.cfg, then.denoise, then.steps, then.upscaler) == (3, 0.4, 9, "Lanczos")


# As text


@given(st.text())
def test_any_text_survives_toml(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert tomllib.loads(f"v = {literal(text)}")["v"] == text


def test_what_is_shown_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    for name in shipped():
        config = Config.load(name).with_layer({"generate": {"prompt": 'a "fox"\n\\ 狐 #'}}, "flag --prompt")
        path = tmp_path / "shown.toml"
        path.write_text(effective_toml(config), encoding="utf-8")
        assert Config.load(path).settings == config.settings
        assert "# flag --prompt" in path.read_text(encoding="utf-8")


def test_a_starting_file_changes_nothing_and_holds_everything(tmp_path: Path) -> None:
    config = Config.load("sdxl")
    text = starting_toml(config, "sdxl")
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert Config.load(path).settings == config.settings
    for section in sections().values():
        for key in section.model_fields:
            assert f"# {key} = " in text


def test_settings_alone_are_valid() -> None:
    assert Settings().hires.scale == 2
