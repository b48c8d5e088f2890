"""`tilehires sweep`: one image under several settings; what doesn't change is computed once, what is done is kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.batches import FAST, Workplace, draw, drawing, outputs, workplace
from tilehires.batch import sweep
from tilehires.batch.store import Store
from tilehires.checks import Finding
from tilehires.errors import ExitCode
from tilehires.images import InProcess
from tilehires.report.sheet import columns_of, verdict_of, write_sheet

SIZES = "hires.upscaler=Lanczos,Bicubic"
TILED = "tiled.upscaler=Lanczos,Bicubic,Nearest"


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    draw(made.input / "fox.png")
    return made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage really ran."""
    counted: Counter[str] = Counter()
    real = Store.put

    def put(self: Store, key: str, stage: Any, *arguments: Any, **more: Any) -> Any:
        counted[stage.name] += 1
        return real(self, key, stage, *arguments, **more)

    monkeypatch.setattr(Store, "put", put)
    return counted


def swept(place: Workplace, *words: str, image: str = "fox.png") -> Any:
    return place.command("sweep", place.input / image, "-o", place.output, *FAST, *words)


def data(place: Workplace) -> dict[str, Any]:
    return json.loads((place.output / "sweep-fox" / "sweep.json").read_text(encoding="utf-8"))


def test_stages_that_do_not_change_run_once(place: Workplace, runs: Counter[str]) -> None:
    ended = swept(place, "--scale", "4", "--vary", TILED)
    assert ended.code == ExitCode.OK, ended.err
    assert runs == {"hires": 1, "tiled.1": 3, "check": 3}
    cells = data(place)["cells"]
    assert [[stage["cached"] for stage in cell["stages"] if stage["name"] == "hires"] for cell in cells] == [
        [False],
        [True],
        [True],
    ]
    assert all(cell["seconds"] >= next(s["seconds"] for s in cells[0]["stages"]) > 0 for cell in cells), (
        "a cell's time holds what the shared stages took"
    )


def test_cells_are_what_run_makes_with_the_same_settings(place: Workplace, runs: Counter[str]) -> None:
    ended = swept(place, "--vary", SIZES, "--vary", "run.format=png,webp", "--seed", "7")
    assert ended.code == ExitCode.OK, ended.err
    body = data(place)
    assert body["axes"] == [
        {"setting": "hires.upscaler", "values": ["Lanczos", "Bicubic"]},
        {"setting": "run.format", "values": ["png", "webp"]},
    ]
    assert body["input"]["path"] == "../../in/fox.png" and body["input"]["size"] == [24, 16]
    assert [cell["seed"] for cell in body["cells"]] == [7] * 4
    cell = body["cells"][1]
    assert cell["values"] == {"hires.upscaler": "Bicubic", "run.format": "png"}
    assert cell["settings"]["hires.upscaler"] == {"value": "Bicubic", "origin": "--vary hires.upscaler"}
    place.run(*FAST, "--set", "hires.upscaler=Bicubic", "--seed", "7", source=place.input / "fox.png")
    mine = np.asarray(Image.open(place.output / "sweep-fox" / cell["output"]["path"]))
    assert np.array_equal(mine, np.asarray(Image.open(place.output / "fox.png")))
    assert cell["findings"] == place.images()["fox.png"]["findings"] and cell["score"] is None
    assert body["cells"][3]["output"]["path"].endswith(".webp")


def test_an_interrupted_sweep_keeps_its_cells_and_ends_as_an_uninterrupted_one(
    place: Workplace, runs: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--scale", "4", "--vary", TILED)
    whole = place.root / "whole"
    assert place.command("sweep", place.input / "fox.png", "-o", whole, *FAST, *words).code == ExitCode.OK
    runs.clear()
    real = sweep.process

    def process(job: Any, context: Any) -> Any:
        if "Nearest" in job.id:
            raise KeyboardInterrupt
        return real(job, context)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "process", process)
        ended = swept(place, *words)
    assert ended.code == ExitCode.INTERRUPTED
    assert [cell["status"] for cell in data(place)["cells"]] == ["done", "done", "left"]
    assert (place.output / "sweep-fox" / "sheet.png").is_file()
    ended = swept(place, *words)
    assert ended.code == ExitCode.OK and "3 done (2 already were)" in ended.out
    assert runs == {"hires": 1, "tiled.1": 3, "check": 3}
    ours, theirs = outputs(place.output / "sweep-fox"), outputs(whole / "sweep-fox")
    for made in (ours, theirs):  # sweep.json and the page name times
        del made["sweep.json"], made["index.html"]
    assert ours == theirs


def test_a_longer_list_makes_only_what_is_new(place: Workplace, runs: Counter[str]) -> None:
    swept(place, "--vary", SIZES)
    runs.clear()
    ended = swept(place, "--vary", SIZES + ",Nearest")
    assert "3 done (2 already were)" in ended.out
    assert runs == {"hires": 1, "check": 1}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--vary", "hires.denoise=0.1", "--vary", "hires.steps=4", "--vary", "hires.cfg=2"), 2, "one setting or two"),
        (("--vary", "hires.denoize=0.1,0.2"), 2, "Did you mean hires.denoise"),
        (("--vary", "hires.denoise=0.1,lots"), 2, "hires.denoise"),
        (("--vary", "hires.denoise="), 2, "has no values"),
        (("--vary", "hires.sampler=Euler,Oiler"), 2, "Oiler"),
        (("--vary", "hires.upscaler=Lanczos,gone.pth"), 5, "gone.pth"),
        ((), 2, "--vary"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    place: Workplace, runs: Counter[str], words: tuple[str, ...], code: int, said: str
) -> None:
    ended = swept(place, *words)
    assert (ended.code, said in ended.err, dict(runs)) == (code, True, {}), ended.err
    assert not place.output.exists()


@pytest.mark.parametrize("name", ["gone.png", ".", "notes.txt"])
def test_what_is_no_image_is_refused(place: Workplace, name: str) -> None:
    (place.input / "notes.txt").write_text("words")
    ended = swept(place, "--vary", SIZES, image=name)
    assert ended.code == ExitCode.USAGE and "image" in ended.err
    assert not place.output.exists()


def test_a_cell_that_fails_costs_itself(place: Workplace) -> None:
    ended = swept(place, "--vary", "hires.scale=2,64,3", "--set", "run.max_pixels=20000")
    assert ended.code == ExitCode.IMAGES_FAILED
    cells = data(place)["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed", "done"]
    assert "max_pixels" in json.dumps(cells[1]["error"])
    assert Image.open(place.output / "sweep-fox" / "sheet.png").width > 600


def test_flags_and_scores_count_and_are_shown(place: Workplace) -> None:
    draw(place.input / "fox.png", 96, 96)
    calibration = "check.percentiles={soft=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9]}"
    ended = swept(place, "--strict", "--vary", SIZES, "--set", "check.limits={drift=0.0001}", "--set", calibration)
    assert ended.code == ExitCode.FLAGGED, ended.err
    for cell in data(place)["cells"]:
        assert cell["flagged"] and isinstance(cell["score"], float)
        assert verdict_of(cell) == (f"score {cell['score']:.1f} · 1 finding: drift", "warning")


def sheet_of(folder: Path, sizes: list[tuple[int, int]], **axes: list[Any]) -> Image.Image:
    """A contact sheet of drawings of those sizes; the last has a white patch that the others lack."""
    cells = []
    for number, (width, height) in enumerate(sizes):
        name = "last.png" if number == len(sizes) - 1 else "first.png"
        if not (folder / name).exists():
            pixels = drawing(width, height)
            if name == "last.png":
                pixels[height * 3 // 4 :, : width // 8] = 255
            Image.fromarray(pixels).save(folder / name)
        output = {"path": name, "size": [width, height], "sha256": ""}
        values = {"hires.denoise": 0.1 * number, "hires.prompt": "a very long prompt " * 20}
        cells.append({"values": values, "status": "done", "output": output, "findings": [], "score": 12.34, "seed": 3})
    body = {
        "input": {"path": "../fox.png"},
        "axes": [{"setting": key, "values": values} for key, values in axes.items()],
        "cells": cells,
    }
    return Image.open(write_sheet(body, folder, InProcess())).convert("RGB")


def test_a_sheet_of_large_pictures_stays_small_and_shows_where_they_differ(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, [(900, 700)] * 9, a=[1, 2, 3], b=[1, 2, 3])
    assert 1900 < sheet.width < 2200 and sheet.height < 3400
    pixels = np.asarray(sheet)
    last = pixels[-600:, -664:-24]
    rows = np.flatnonzero((last == 255).all(axis=(2)).sum(axis=1) > 100)
    assert len(rows) > 150, "the crop at 100 % lies on the patch"


def test_a_small_picture_stands_on_the_sheet_pixel_for_pixel(tmp_path: Path) -> None:
    sheet = np.asarray(sheet_of(tmp_path, [(90, 60), (90, 60)], a=[1, 2]))
    wanted = drawing(90, 60)
    spots = np.argwhere((sheet[:-59, :-89] == wanted[0, 0]).all(axis=2))
    assert any(np.array_equal(sheet[y : y + 60, x : x + 90], wanted) for y, x in spots)


def test_cells_stand_as_people_read_them() -> None:
    def columns(*lengths: int) -> int:
        return columns_of([{"values": list(range(length))} for length in lengths])

    assert [columns(3), columns(4), columns(5), columns(9), columns(3, 2), columns(2, 5), columns(6, 1)] == [
        *(3, 4, 3, 3, 3, 2, 3),
    ]


def test_a_verdict_names_findings_and_score() -> None:
    flags = [Finding("soft", "warning", 1, 0, None, ""), Finding("size", "info", 1, 2, None, "")]
    cell = {"status": "done", "score": 7.25, "findings": [vars_of(one) for one in flags]}
    assert verdict_of(cell) == ("score 7.2 · 1 finding: soft", "warning")
    assert verdict_of({"status": "failed"}) == ("failed", "error")


def vars_of(finding: Finding) -> dict[str, Any]:
    return {"check": finding.check, "severity": finding.severity}
