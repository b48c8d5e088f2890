"""A folder of images that say how they were made: each is done with its own settings, whichever tool wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests import tiny
from tests.batches import drawing, outputs
from tests.unit.test_metadata_hostile import HOSTILE
from tests.unit.test_metadata_tools import graph
from tilehires.cli import main
from tilehires.errors import ExitCode
from tilehires.report import load

A1111 = "a fox\nNegative prompt: blur\nSteps: 2, Sampler: {}, CFG scale: {}, Seed: {}, Size: 24x16{}"
INVOKE = {
    **{"positive_prompt": "a barn", "seed": 9, "steps": 50, "cfg_scale": 3.0, "scheduler": "heun", "clip_skip": 1},
    **{"model": {"name": "xl", "base": "sdxl"}, "loras": [{"model": {"name": "ink"}, "weight": 1}]},
}
INPUTS: dict[str, dict[str, str]] = {
    "euler.png": {"parameters": A1111.format("Euler", 6, 11, "")},
    "karras.png": {"parameters": A1111.format("DPM++ 2M Karras", 3, 12, ", Clip skip: 1, Model: dream")},
    "skip.png": {"parameters": A1111.format("DPM++ 2M Karras", 3, 12, ", Clip skip: 2, Model: dream")},
    "comfy.png": {"prompt": json.dumps(graph({"3": {"steps": 2, "cfg": 1.5}}))},
    "invoke.png": {"invokeai_metadata": json.dumps(INVOKE)},
    "tiles.png": {"parameters": A1111.format("Euler", 6, 11, ", Tiling: True")},
    "frayed.png": {"parameters": A1111.format("Euler", 6, 11, ", Tiling: True")},
    "odd.png": {"parameters": A1111.format("DPM adaptive", 5, 13, "")},
    "nosuch.png": {"parameters": A1111.format("Ojler 3000", 5, 13, "")},
    "deep.png": {"prompt": '{"a":' * 50_000},
    "plain.png": {},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """(output folder, the report's images by id) of one run over all of INPUTS and a file with a bomb in it."""
    root = tmp_path_factory.mktemp("metadata")
    (root / "in").mkdir()
    for name, texts in INPUTS.items():
        info = PngImagePlugin.PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        width, height = (64, 64) if name == "tiles.png" else (24, 16)
        Image.fromarray(drawing(width, height)).save(root / "in" / name, pnginfo=info)
    plain = (root / "in" / "plain.png").read_bytes()
    for name, kind in (("bomb", "packed"), ("long", "long")):  # 200 MB packed, and 100 MB as they are
        (root / "in" / f"{name}.png").write_bytes(plain[:33] + HOSTILE[kind]() + plain[33:])
    for name in ("invoke", "deep", "plain", "bomb", "long"):  # which would run the family's 20 steps
        (root / "in" / f"{name}.toml").write_text("[generate]\nsteps = 2\n")
    checkpoint = tiny.write_folder(tiny.sd15(), root / "tiny")
    words = ["run", str(root / "in"), "-o", str(root / "out"), "-q", "--checkpoint", str(checkpoint)]
    words += ["--denoise", "0.5", "--set", "hires.upscaler=Lanczos"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == ExitCode.OK, "one image's metadata must never cost the batch"
    return root / "out", {image["id"]: image for image in load(root / "out")["images"]}


def values(image: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("generate.prompt", "generate.cfg", "generate.sampler", "generate.scheduler", "model.clip_skip")
    return (image["seed"], *(image["settings"][key]["value"] for key in keys))


def test_each_image_is_done_with_its_own_settings(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    images = ran[1]
    assert values(images["euler.png"])[:4] == (11, "a fox", 6.0, "Euler")
    assert values(images["karras.png"]) == (12, "a fox", 3.0, "DPM++ 2M", "Karras", 1)
    assert values(images["skip.png"]) == (12, "a fox", 3.0, "DPM++ 2M", "Karras", 2)
    prompt = "a fox, (red:1.2) <lora:film:1> <lora:detail:0.5:0.8>"
    comfy = (156680208700286, prompt, 1.5, "DPM++ 2M", "Karras", 2)
    assert values(images["comfy.png"]) == comfy
    for name in ("euler.png", "skip.png", "comfy.png", "odd.png"):
        [hires] = [stage for stage in images[name]["stages"] if stage["name"] == "hires"]
        assert hires["facts"]["steps_run"] == 2, name


def test_the_origin_names_the_tool(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    images = ran[1]
    assert images["skip.png"]["settings"]["model.clip_skip"]["origin"] == "metadata (A1111)"
    assert images["comfy.png"]["settings"]["generate.sampler"]["origin"] == "metadata (ComfyUI)"
    assert images["invoke.png"]["settings"]["generate.prompt"]["origin"] == "metadata (InvokeAI)"


def test_clip_skip_changes_the_picture(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    one, two = (np.asarray(Image.open(ran[0] / name)) for name in ("karras.png", "skip.png"))
    assert (one != two).any(), "the two differ in nothing but clip skip"


def test_another_familys_settings_are_left_out_but_for_prompt_and_seed(
    ran: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    image = ran[1]["invoke.png"]
    assert values(image)[:2] == (9, "a barn"), "its LoRA is for another family"
    assert image["settings"]["generate.cfg"]["value"] != 3.0 and image["settings"]["model.clip_skip"]["value"] == 1
    assert any("left out" in note for note in image["notes"])


def test_what_tiles_is_made_to_tile_where_its_size_allows_that(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    output, images = ran
    tiles, frayed = (images[f"{name}.png"] for name in ("tiles", "frayed"))
    assert tiles["settings"]["model.seamless"] == {"value": "both", "origin": "metadata (A1111)"}
    assert frayed["settings"]["model.seamless"]["value"] == "none" and frayed["status"] == "done"
    assert "multiple of 64" in frayed["notes"][0] and tiles["notes"] == []
    for name, said in (("tiles", True), ("frayed", False)):
        with Image.open(output / f"{name}.png") as image:
            assert ("Tiling: True" in image.info["parameters"]) == said


def test_what_cant_be_used_is_a_note(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    images = ran[1]
    left_out = {"odd.png": "DPM adaptive", "nosuch.png": "Ojler 3000", "deep.png": "nested too deep"}
    for name, word in {**left_out, "bomb.png": "16 MiB", "long.png": "16 MiB"}.items():
        assert images[name]["status"] == "done"
        assert any(word in note for note in images[name]["notes"]), (name, images[name]["notes"])
    assert images["plain.png"]["notes"] == [] and len(outputs(ran[0])) == len(INPUTS) + 2
