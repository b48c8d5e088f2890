"""`--vary`: what is read, what is refused, and which cells follow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tilehires.config import Config
from tilehires.config.vary import cells_of, parse_vary, shown
from tilehires.errors import ConfigError


def values(*texts: str) -> list[list[Any]]:
    return [list(cell.values.values()) for cell in cells_of(Config.load(), [parse_vary(text) for text in texts])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hires.denoise=0.2, 0.3,0.40,", [0.2, 0.3, 0.4]),
        ("generate.sampler=Euler a,DPM++ 2M", ["Euler a", "DPM++ 2M"]),
        ('hires.prompt=["a fox, running", "a dog"]', ["a fox, running", "a dog"]),
        ('hires.prompt="a, b","c"', ["a, b", "c"]),
        ("hires.prompt=a dog's life,8", ["a dog's life", "8"]),
        ('hires.prompt_add=["", "sharp"]', ["", "sharp"]),
        ("hires.loras=one:0.5,two", [["one:0.5"], ["two"]]),
        ('hires.loras=[[], ["one", "two:0.3"]]', [[], ["one", "two:0.3"]]),
        ("run.bits=8,16", ["8", "16"]),
        ("generate.seed=-1,18446744073709551615", [-1, 2**64 - 1]),
    ],
)
def test_values_are_read_as_set_reads_them(text: str, expected: list[Any]) -> None:
    assert values(text) == [[value] for value in expected]


def test_the_first_axis_runs_fastest_and_beats_every_other_source() -> None:
    config = Config.load().with_layer({"hires": {"denoise": 0.9}}, "flag --denoise")
    cells = cells_of(config, [parse_vary("hires.denoise=0.1,0.2"), parse_vary("hires.steps=4,8")])
    assert [tuple(cell.values.values()) for cell in cells] == [(0.1, 4), (0.2, 4), (0.1, 8), (0.2, 8)]
    for cell in cells:
        assert (cell.config.settings.hires.denoise, cell.config.settings.hires.steps) == tuple(cell.values.values())
        assert cell.config.origins["hires.denoise"] == "--vary hires.denoise"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["hires.denoise"], "is not section.key=a,b,c"),
        (["=0.2"], "is not section.key=a,b,c"),
        (["hires.denoise="], "has no values"),
        (["hires.denoise=,"], "has no values"),
        (["hires.denoise=[]"], "has no values"),
        (["hires.denois=0.2"], "Did you mean hires.denoise"),
        (["hires.denoise=0.2,much"], "hires.denoise"),
        (["hires.denoise=0.2,1.5"], "1.5"),
        (["hires.denoise=0.2,0.20"], "there twice"),
        (["hires.denoise=0.2", "hires.denoise=0.3"], "there twice"),
        (["hires.denoise=0.2", "hires.steps=4", "hires.cfg=3"], "not 3"),
        ([], "not 0"),
        (["run.device=cpu,cuda"], "one for all cells"),
        (["tiled.tile_min=64,512", "tiled.tile_max=128"], "tile_min = 512"),
        ([f"hires.steps={','.join(map(str, range(1, 40)))}"], "39 values"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_a_sentence(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(*texts)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_cells_have_names_that_no_file_system_mixes_up() -> None:
    texts = json.dumps(["../a", "..-a", "A", "a", "x" * 300, "x" * 300 + "y", "con:x?", ""])
    names = [cell.name for cell in cells_of(Config.load(), [parse_vary(f"hires.prompt={texts}")])]
    assert len({name.casefold() for name in names}) == 8
    for name in names:
        assert len(name) < 120 and not set(name) & set('/\\:*?"<>|') and not name.endswith((".", " "))
    axes = [parse_vary("hires.denoise=0.2"), parse_vary("hires.upscaler=Lanczos")]
    assert [cell.name for cell in cells_of(Config.load(), axes)] == ["hires.denoise=0.2,hires.upscaler=Lanczos"]


def test_values_are_shown_shortly() -> None:
    assert [shown(v) for v in (0.30000000000000004, None, "", [], True, ["a", 2], {"detector": "face", "x": None})] == [
        *("0.3", "none", "(empty)", "none", "true", "a, 2", "detector=face"),
    ]
