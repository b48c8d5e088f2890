"""`tilehires check`: pairs of images, folders, our own output folders; what it says and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.batches import FAST, Workplace, draw, drawing, workplace
from tilehires.batch.inspection import in_frame, recorded_tiles
from tilehires.errors import ExitCode
from tilehires.geometry import Box, Size


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def pair(folder: Path, name: str = "a.png", *, width: int = 256, height: int = 240) -> tuple[Path, Path]:
    """An input, and its enlargement by another tool."""
    source = draw(folder / "in" / name, width, height)
    made = folder / "theirs" / name
    made.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).resize((width * 2, height * 2), Image.Resampling.BICUBIC).save(made)
    return made, source


def spoil(path: Path, box: Box) -> None:
    pixels = np.array(Image.open(path))
    pixels[box.slices] = 0
    Image.fromarray(pixels).save(path)


def test_a_good_pair_ends_with_0_and_a_flagged_one_with_4_only_under_strict(place: Workplace) -> None:
    made, source = pair(place.root)
    ended = place.command("check", made, "--against", source, "--only", "black", "--strict")
    assert ended.code == ExitCode.OK and "0 flagged" in ended.out, ended
    spoil(made, Box(64, 64, 192, 128))
    ended = place.command("check", made, "--against", source, "--only", "black")
    assert ended.code == ExitCode.OK
    assert "black" in ended.out and "64,64,192,128" in ended.out and "1 flagged" in ended.out
    assert place.command("check", made, "--against", source, "--strict").code == ExitCode.FLAGGED


def test_folders_are_matched_by_name_and_what_is_alone_is_said(place: Workplace) -> None:
    pair(place.root, "a.png")
    made, _ = pair(place.root, "sub/b.png")
    spoil(made, Box(0, 0, 64, 64))
    draw(place.root / "theirs" / "lonely.png", 64, 64)
    ended = place.command("check", place.root / "theirs", "--against", place.input, "--only", "black", "--json")
    assert ended.code == ExitCode.IMAGES_FAILED
    images = {Path(one["output"]).name: one for one in json.loads(ended.out)["images"]}
    assert [images[name]["flagged"] for name in ("a.png", "b.png", "lonely.png")] == [False, True, False]
    assert images["b.png"]["findings"][0]["box"] == [0, 0, 64, 64]
    assert "no input has its name" in images["lonely.png"]["error"]["message"]


def test_an_output_folder_of_ours_knows_its_inputs(place: Workplace) -> None:
    draw(place.input / "a.png", 96, 96)
    assert place.run(*FAST).code == 0
    ended = place.command("check", place.output, "--only", "black", "--only", "size")
    assert ended.code == ExitCode.OK and "1 looked at, 0 flagged" in ended.out
    spoil(place.output / "a.png", Box(0, 0, 64, 64))
    assert "1 flagged" in place.command("check", place.output, "--only", "black").out
    (place.input / "a.png").unlink()
    ended = place.command("check", place.output)
    assert ended.code == ExitCode.IMAGES_FAILED and "a.png" in ended.err


@pytest.mark.parametrize("words", [("nothing",), ("theirs/a.png",), ("theirs", "--against", "in/a.png"), ("in",)])
def test_nothing_to_compare_is_a_usage_error(place: Workplace, words: tuple[str, ...]) -> None:
    pair(place.root)
    paths = [word if word.startswith("-") else place.root / word for word in words]
    ended = place.command("check", *paths)
    assert ended.code == ExitCode.USAGE and "hint:" in ended.err, ended


def test_the_grid_of_another_tool_is_searched_for(place: Workplace) -> None:
    made, source = pair(place.root, width=384, height=320)
    assert "0 flagged" in place.command("check", made, "--against", source, "--only", "seam_tone").out
    pixels = np.array(Image.open(made)).astype(int)
    for i, y in enumerate(range(0, 640, 160)):
        for j, x in enumerate(range(0, 768, 160)):
            pixels[y : y + 160, x : x + 160] += 3 * ((i + j) % 2)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(made)
    ended = place.command("check", made, "--against", source, "--only", "seam_tone", "--json")
    (found,) = json.loads(ended.out)["images"][0]["findings"]
    assert found["severity"] == "warning" and found["value"] > 3, found
    axis, _, positions = found["message"].partition("lines ")[2].partition(" as beside")[0].partition(" = ")
    expected = {"x": [160, 320, 480, 640], "y": [160, 320, 480]}[axis]
    assert np.allclose([int(word) for word in positions.split(",")], expected, atol=4), found["message"]


def test_a_crop_is_compared_with_the_middle_of_its_input() -> None:
    before = drawing(100, 80)
    assert in_frame(before, Size(200, 160)) is before and in_frame(before, Size(201, 160)) is before
    assert (in_frame(before, Size(160, 160)) == before[:, 10:90]).all()


def test_a_squashed_output_is_told_from_a_cropped_one(place: Workplace) -> None:
    made, source = pair(place.root, width=240, height=160)
    whole = Image.open(made)
    whole.crop((80, 0, 400, 320)).save(made)
    assert "0 flagged" in place.command("check", made, "--against", source, "--only", "size", "--only", "drift").out
    whole.resize((320, 320)).save(made)
    ended = place.command("check", made, "--against", source, "--only", "size", "--only", "drift")
    assert "size: The output is 320x320, which is not the input's aspect." in ended.out, ended
    assert "drift" not in ended.out, "it is the same picture"


def test_a_picture_from_a_prompt_is_compared_with_its_first_pass_and_never_passed_over(place: Workplace) -> None:
    draw(place.input / "a.png", 96, 96)
    assert place.run(*FAST).code == 0
    body = place.report()
    (image,) = body["images"]
    image["input"], image["before"] = None, image["output"]
    path = place.output / "report" / "report.json"
    path.write_text(json.dumps(body))
    ended = place.command("check", place.output, "--only", "black")
    assert ended.code == ExitCode.OK and "1 looked at, 0 flagged, 0 failed" in ended.out, ended
    del image["before"]
    path.write_text(json.dumps(body))
    ended = place.command("check", place.output, "--only", "black")
    assert ended.code == ExitCode.IMAGES_FAILED and "nothing says what it was made from" in ended.err, ended


def test_recorded_tiles_of_an_earlier_pass_are_brought_to_the_output() -> None:
    stages = [
        {"facts": {"tiles": [[0, 0, 60, 80], [40, 0, 100, 80]]}},
        {"facts": {"tiles": [[0, 0, 160, 160]]}},
        {"facts": {}},
    ]
    made = recorded_tiles({"output": {"size": [160, 160]}, "stages": stages})
    assert made == (Box(0, 0, 100, 160), Box(60, 0, 160, 160), Box(0, 0, 160, 160))
