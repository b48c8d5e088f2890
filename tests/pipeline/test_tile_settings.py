"""`tilehires run` with odd tile settings and odd sizes: the right thing, or an error in the user's own units, pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.batches import Workplace, draw, workplace
from tilehires.config.settings import TiledSettings
from tilehires.diffusion.family import BUILTIN, SDXL
from tilehires.errors import ConfigError, ExitCode
from tilehires.geometry import Size
from tilehires.stages.cutting import cut, tile_range

DIFFUSED = ("--steps", "1", "--denoise", "0.3", "--set", "hires.upscaler=Lanczos", "--set", "hires.max_canvas=256")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("tile_max", "overlap", "says"),
    [
        (64, 64, "tiled.overlap = 64 leaves nothing of tiles of at most tiled.tile_max = 64 pixels"),
        (64, 100, "tiled.overlap = 100"),
        (79, 50, "counted in this model's multiples of 16: 64 and 64"),
        (15, 0, "tiled.tile_max = 15 is too small: this model's tiles are multiples of 16 pixels"),
    ],
)
def test_what_leaves_a_tile_nothing_ends_before_the_first_image(
    place: Workplace, tile_max: int, overlap: int, says: str
) -> None:
    draw(place.input / "a.png")
    ended = place.run("--set", f"tiled.tile_max={tile_max}", "--set", f"tiled.overlap={overlap}")
    assert ended.code == ExitCode.USAGE
    assert says in ended.err and "hint:" in ended.err
    assert not place.output.exists() or not list(place.output.glob("*.png"))


def test_beside_an_image_it_costs_that_image_only(place: Workplace) -> None:
    draw(place.input / "bad.png", 100, 100)
    (place.input / "bad.toml").write_text("[tiled]\ntile_max = 64\noverlap = 64\n[hires]\nscale = 4\n")
    draw(place.input / "good.png")
    ended = place.run("--denoise", "0.3", "--steps", "1", "--set", "hires.upscaler=Lanczos")
    assert ended.code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"bad.png": "failed", "good.png": "done"}
    assert "tiled.overlap = 64" in place.images()["bad.png"]["error"]["message"]


@pytest.mark.parametrize(
    ("width", "height", "tile_max", "overlap", "columns", "rows"),
    [
        (100, 21, 128, 16, 4, 1),  # the canvas is 448×128: lower than a tile
        (21, 100, 128, 16, 1, 4),  # narrower than a tile
        (31, 23, 300, 64, 1, 1),  # smaller than a tile on both
        (67, 41, 100, 9, 4, 3),  # tile and overlap are no multiples of 16, and the sides are odd
    ],
)
def test_odd_sizes_come_out_whole(
    place: Workplace, width: int, height: int, tile_max: int, overlap: int, columns: int, rows: int
) -> None:
    draw(place.input / "a.png", width, height)
    settings = ("--set", f"tiled.tile_max={tile_max}", "--set", f"tiled.overlap={overlap}")
    ended = place.run("--scale", "4", *DIFFUSED, *settings)
    assert ended.code == ExitCode.OK, ended.err
    with Image.open(place.output / "a.png") as image:
        assert image.size == (4 * width, 4 * height)
    facts = next(s["facts"] for s in place.images()["a.png"]["stages"] if s["name"] == "tiled.1")
    covered = np.zeros((4 * height, 4 * width), int)
    for x0, y0, x1, y1 in facts["tiles"]:
        covered[y0:y1, x0:x1] += 1
        assert x1 - x0 <= tile_max and y1 - y0 <= tile_max
    assert covered.min() >= 1, "every pixel belongs to a tile"
    assert len({x0 for x0, *_ in facts["tiles"]}) == columns
    assert len({y0 for _, y0, *_ in facts["tiles"]}) == rows


def test_one_bound_of_the_range_moves_the_familys_other() -> None:
    for given, expected in (
        ({}, (832, 1152)),
        ({"tile_max": 512}, (512, 512)),
        ({"tile_min": 1536}, (1536, 1536)),
        ({"tile_min": 512, "tile_max": 2048}, (512, 2048)),
    ):
        assert tile_range(TiledSettings.model_validate(given), SDXL) == expected


def test_a_canvas_of_one_tile_needs_no_overlap_that_fits() -> None:
    options = {"tile_min": 64, "tile_max": 64, "overlap": 64, "factor": 2, "family": BUILTIN}
    assert len(cut(Size(64, 64), **options).tiles) == 1
    with pytest.raises(ConfigError, match="leaves nothing"):
        cut(Size(128, 64), **options)
