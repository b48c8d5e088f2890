"""Sequential redraw and seam fix: the painter on an exact fake VAE, and whole runs with the built-in model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.batches import Workplace, draw, drawing, outputs, workplace
from tilehires.checks.boundaries import boundaries
from tilehires.checks.seam_tone import steps_of
from tilehires.checks.steps import statistic
from tilehires.config.settings import Settings, TiledSettings, hires_pass
from tilehires.diffusion import sampling
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.control import Control
from tilehires.diffusion.noise import CanvasNoise
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.sampling import Sample
from tilehires.errors import ExitCode
from tilehires.geometry import Box, Size
from tilehires.progress import Silent
from tilehires.report import load
from tilehires.stages import redraw as module
from tilehires.stages.redraw import Layout, Painter, RedrawSettings, layout
from tilehires.tiling import vae
from tilehires.tiling.grid import TileGrid, elastic_grid

SIZE = Size(400, 300)
CANVAS = SIZE.ceil_to(64)
FACTOR = 8
Answer = Callable[[torch.Tensor, Box, int], torch.Tensor]


def redrawing(**tiled: Any) -> RedrawSettings:
    return RedrawSettings.of(TiledSettings.model_validate(tiled))


def cut(settings: RedrawSettings, *, tile: int = 192) -> Layout:
    grid = elastic_grid(CANVAS.divided(FACTOR), tile_max=tile // FACTOR, overlap=8, multiple=8).scaled(FACTOR)
    return layout(settings, grid, SIZE, tile=tile, unit=FACTOR, multiple=64)


class Studio:
    """A painter whose VAE only folds 8×8 pixels into channels, and whose sampler is `answer(latents, place, number)`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
        self.places: list[Box] = []
        self.noises: list[torch.Tensor] = []
        self.held = 0
        fold, unfold = torch.nn.PixelUnshuffle(FACTOR), torch.nn.PixelShuffle(FACTOR)
        monkeypatch.setattr(vae, "encode", lambda model, planes, **_: fold(planes))
        monkeypatch.setattr(vae, "decode", lambda model, latents, **_: unfold(latents))

        def sample(model: Any, condition: Any, latents: torch.Tensor, **given: Any) -> Sample:
            self.places.append(given["place"])
            self.noises.append(given["noise"].start(tuple(latents.shape)))
            assert given["size"] == CANVAS
            assert given["place"].size == Size(latents.shape[-1], latents.shape[-2])
            for control in given["controls"]:
                held = (unfold(latents) + 1) / 2
                assert (control.part(given["place"].scale(FACTOR)) - held).abs().max() <= 1e-6
                self.held += 1
            mask, original = given["inpaint"].mask, given["inpaint"].original
            made = answer(latents, given["place"], len(self.places) - 1)
            return Sample((1 - mask) * original + mask * made, given["steps"])

        monkeypatch.setattr(sampling, "sample", sample)
        monkeypatch.setattr(module, "sees_mask", lambda model: False)
        monkeypatch.setattr(module, "latent_channels", lambda model: 3 * FACTOR**2)
        monkeypatch.setattr(module.samplers, "make", lambda *_: None)

    def paint(self, pixels: np.ndarray, patches: Any, name: str = "tiled.1: redraw", hint: bool = False) -> np.ndarray:
        model: Any = SimpleNamespace(vae_factor=FACTOR, vae=None, unet=None, scheduler_config={})
        tools: Any = SimpleNamespace(bay=Bay("cpu"), progress=Silent())
        values = hires_pass(Settings(), 5)
        condition = Conditioning(torch.zeros(1, 1, 1), None, False)
        painter = Painter(model, lambda step: condition, values, CANVAS, "tile", "whole", tools, "sd1")
        made = pixels.copy()
        controls = (Control(torch.nn.Identity(), torch.from_numpy(made).permute(2, 0, 1)[None]),) if hint else ()
        painter.redraw(made, patches, 0.35, name, controls)
        return made


def picture() -> np.ndarray:
    return drawing(SIZE.width, SIZE.height).astype(np.float32) / 255


@pytest.mark.parametrize("mode", ["linear", "chess"])
@pytest.mark.parametrize("seam_fix", ["none", "band", "half", "half+intersections"])
def test_a_model_that_changes_nothing_leaves_the_picture(
    monkeypatch: pytest.MonkeyPatch, mode: str, seam_fix: str
) -> None:
    studio, parts = Studio(monkeypatch, lambda latents, *_: latents), cut(redrawing(redraw=mode, seam_fix=seam_fix))
    made = studio.paint(picture(), (*parts.tiles, *parts.seams))
    assert len(studio.places) == len(parts.tiles) + len(parts.seams) > 8
    assert np.abs(made - picture()).max() < 1e-6, "nothing is rounded on the way"


@pytest.mark.parametrize("mode", ["linear", "chess"])
def test_nothing_of_the_old_picture_stays(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    studio = Studio(monkeypatch, lambda latents, *_: torch.full_like(latents, 0.5))
    made = studio.paint(picture(), cut(redrawing(redraw=mode)).tiles)
    assert np.abs(made - 0.75).max() < 1e-6, "the peers leave up to a quarter along every edge"


def test_where_the_mask_is_nothing_no_bit_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(monkeypatch, lambda latents, *_: torch.full_like(latents, -1.0))
    parts = cut(redrawing(redraw="linear", seam_fix="band"))
    for patch in (parts.tiles[4], parts.seams[0]):
        made, before = studio.paint(picture(), [patch]), picture()
        masked = np.zeros((CANVAS.height, CANVAS.width), bool)
        masked[patch.crop.slices] = patch.mask > 0
        masked = masked[: SIZE.height, : SIZE.width]
        assert np.array_equal(made[~masked], before[~masked])
        assert 0.02 < masked.mean() < 0.5 and (made[masked] != before[masked]).mean() > 0.4


def test_crops_come_in_the_order_of_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("linear", "chess"):
        studio, parts = Studio(monkeypatch, lambda latents, *_: latents), cut(redrawing(redraw=mode))
        studio.paint(picture(), parts.tiles)
        assert [place.scale(FACTOR) for place in studio.places] == [patch.crop for patch in parts.tiles]
        rows = [box[1] for box in parts.facts(redrawing(redraw=mode), Box.of(SIZE))["tiles"]]
        assert rows == sorted(rows), "facts list tiles row by row, whatever the order of the work"


def test_a_controlnet_sees_the_picture_as_it_is_when_a_patchs_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = cut(redrawing(redraw="linear")).tiles
    studio = Studio(monkeypatch, lambda latents, place, number: 1 - latents)
    studio.paint(picture(), patches, hint=True)
    assert studio.held == len(patches) > 1


def test_a_tiles_noise_is_the_canvas_noise_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    studio, parts = Studio(monkeypatch, lambda latents, *_: latents), cut(redrawing(redraw="linear"))
    studio.paint(picture(), parts.tiles)
    cells = CANVAS.divided(FACTOR)
    canvas = CanvasNoise(5, "tiled.1: redraw").start((1, 3 * FACTOR**2, cells.height, cells.width))
    for place, noise in zip(studio.places, studio.noises, strict=True):
        assert torch.equal(noise, canvas[(..., *place.slices)])
    assert not torch.equal(studio.noises[0], studio.noises[1]), "the peers give every tile the same noise"


@pytest.mark.parametrize("mode", ["linear", "chess"])
@pytest.mark.parametrize("seam_fix", ["band", "half", "half+intersections"])
def test_the_seam_fix_lowers_the_seam_measure(monkeypatch: pytest.MonkeyPatch, mode: str, seam_fix: str) -> None:
    """The model paints the true picture, but in a tone of its own in every patch."""
    truth = picture()
    padded = np.pad(truth, ((0, CANVAS.height - SIZE.height), (0, CANVAS.width - SIZE.width), (0, 0)), mode="edge")
    planes = torch.from_numpy(padded.transpose(2, 0, 1).copy())[None] * 2 - 1
    tones = np.random.default_rng(0).choice([-3, 3], 200) * 2 / 255

    def answer(latents: torch.Tensor, place: Box, number: int) -> torch.Tensor:
        piece = planes[(..., *place.scale(FACTOR).slices)] * 0.8 + tones[number]
        return torch.nn.functional.pixel_unshuffle(piece, FACTOR)

    settings = redrawing(redraw=mode, seam_fix=seam_fix)
    studio, parts = Studio(monkeypatch, answer), cut(settings)
    lines = boundaries([Box(*box) for box in parts.facts(settings, Box.of(SIZE))["tiles"]])
    assert {line.position for line in lines if line.axis == "x"} == {p.box.x0 for p in parts.tiles} - {0}
    tiles = studio.paint(truth, parts.tiles)
    fixed = studio.paint(tiles, parts.seams)
    before, after = (statistic(steps_of(image, truth * 0.8 + 0.1), lines) for image in (tiles, fixed))
    assert after < 0.75 * before, f"{before:.2f} before, {after:.2f} after"


def test_a_pass_in_one_piece_stays_in_one_piece() -> None:
    whole = TileGrid.whole(CANVAS)
    parts = layout(redrawing(redraw="chess", seam_fix="half"), whole, SIZE, tile=192, unit=8, multiple=64)
    assert parts == Layout(whole, (), ()) and parts.facts(redrawing(), Box.of(SIZE))["redraw"] == "fused"


def test_the_seam_fix_follows_fused_tiles_too() -> None:
    parts = cut(redrawing(seam_fix="half+intersections"))
    assert not parts.tiles and parts.seams and parts.seam_work > 1
    lines = boundaries([tile.box for tile in parts.grid.tiles])
    crossed = {(p.box.x0 + p.box.x1) // 2 for p in parts.seams} | {(p.box.y0 + p.box.y1) // 2 for p in parts.seams}
    assert {line.position for line in lines} <= crossed


# Whole runs

WORDS = ("--steps", "1", "--denoise", "0.3", "--scale", "4", "--seed", "1")
TILES = ("--set", "tiled.tile_min=64", "--set", "tiled.tile_max=128", "--set", "tiled.overlap=32")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def test_chess_with_bands_from_the_command_line(place: Workplace) -> None:
    draw(place.input / "a.png", 48, 32)
    modes = ("--set", "tiled.redraw=chess", "--set", "tiled.seam_fix=band")
    for name in ("one", "two"):
        ended = place.run(*WORDS, *TILES, *modes, output=place.root / name)
        assert ended.code in (ExitCode.OK, ExitCode.FLAGGED), ended.err
    assert outputs(place.root / "one") == outputs(place.root / "two")
    (image,) = load(place.root / "one")["images"]
    facts = {stage["name"]: stage["facts"] for stage in image["stages"]}
    assert facts["hires"]["redraw"] == "fused" and len(facts["hires"]["tiles"]) == 1
    tiled = facts["tiled.1"]
    assert (tiled["redraw"], tiled["seam_fix"], len(tiled["tiles"])) == ("chess", "band", 6)
    assert len(tiled["seam_tiles"]) == 2 * 2 + 1 * 3 and tiled["seam_work"] > 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tiled.redraw=spiral", "tiled.redraw"),
        ("tiled.seam_fix=all", "tiled.seam_fix"),
        ("tiled.seam_denoise=0", "tiled.seam_denoise"),
        ("tiled.redraw_padding=60", "tiled.redraw_padding = 60 leaves nothing"),
        ("tiled.seam_width=120", "tiled.seam_width = 120"),
        ("tiled.seam_padding=60", "tiled.seam_padding = 60 leaves nothing"),
    ],
)
def test_what_cant_be_is_refused_before_the_first_image(place: Workplace, setting: str, said: str) -> None:
    draw(place.input / "a.png")
    modes = ("--set", "tiled.redraw=linear", "--set", "tiled.seam_fix=band")
    ended = place.run(*TILES, *modes, "--set", setting)
    assert ended.code == ExitCode.USAGE and said in ended.err, ended.err
