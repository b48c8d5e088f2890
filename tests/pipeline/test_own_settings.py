"""PNGs with A1111's parameters: each is finished with its own of everything, as if its flags had said so, and says it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests import loras, tiny
from tests.batches import drawing
from tilehires import metadata
from tilehires.cli import main
from tilehires.errors import ExitCode
from tilehires.images import read
from tilehires.metadata.a1111 import parse
from tilehires.report import load

INFOTEXTS = {
    "fox": (
        "a fox, <lora:style:0.8> in snow\nNegative prompt: blur, fog\nSteps: 2, Sampler: Euler, Schedule type: Karras, "
        'CFG scale: 6.5, Seed: 11, Size: 24x16, Model hash: 6ce0161689, Model: dream, Clip skip: 2, Lora hashes: "style: '
        '1a2b3c4d", Hires prompt: "a dog, big: 2", Version: v1.10.1'
    ),
    "barn": (
        "a (red:1.3) barn\n<lora:ink:0.5:0.9>\nNegative prompt: grey\nSteps: 3, Sampler: DPM++ 2M SDE Karras, CFG scale: 3, "
        "Seed: 12, Size: 24x16, Model: dream, ENSD: 31337"
    ),
}
# What the same is as flags.
FLAGS: dict[str, dict[str, Any]] = {
    "fox": {
        "generate.prompt": "a fox, <lora:style:0.8> in snow",
        "generate.negative_prompt": "blur, fog",
        "generate.seed": 11,
        "generate.sampler": "Euler",
        "generate.scheduler": "Karras",
        "generate.cfg": 6.5,
        "generate.steps": 2,
        "model.clip_skip": 2,
    },
    "barn": {
        "generate.prompt": "a (red:1.3) barn\n<lora:ink:0.5:0.9>",
        "generate.negative_prompt": "grey",
        "generate.seed": 12,
        "generate.sampler": "DPM++ 2M SDE",
        "generate.scheduler": "Karras",
        "generate.cfg": 3,
        "generate.steps": 3,
        "model.clip_skip": 1,
    },
}
COMMON = ("--denoise", "0.5", "--set", "hires.upscaler=Lanczos", "-q")


def run(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", *map(str, words), *COMMON])
    assert ended.value.code == ExitCode.OK


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "out", of one run over both images, and "model.safetensors", two LoRAs, and plain.png."""
    root = tmp_path_factory.mktemp("own")
    pipe = tiny.sd15()
    tiny.write_single_file(pipe, root / "model.safetensors")
    for folder in ("models/loras", "in"):
        (root / folder).mkdir(parents=True)
    loras.write(pipe, root / "models/loras/style.safetensors", "kohya", loras.halves(pipe))
    loras.write(pipe, root / "models/loras/ink.safetensors", "diffusers", loras.halves(pipe, rank=3, alpha=3))
    picture = Image.fromarray(drawing(24, 16))
    picture.save(root / "plain.png")
    for name, text in INFOTEXTS.items():
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", text)
        picture.save(root / "in" / f"{name}.png", pnginfo=info)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run("in", "-o", "out", "--checkpoint", "model.safetensors")
    return root


@pytest.mark.parametrize("name", INFOTEXTS)
def test_its_own_words_are_worth_as_much_as_flags(work: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    words = [word for key, value in FLAGS[name].items() for word in ("--set", f"{key}={value}")]
    run("plain.png", "-o", f"flags-{name}", "--checkpoint", "model.safetensors", *words)
    flagged = np.asarray(Image.open(work / f"flags-{name}" / "plain.png"))
    assert np.array_equal(np.asarray(Image.open(work / "out" / f"{name}.png")), flagged)
    image = {image["id"]: image for image in load(work / "out")["images"]}[f"{name}.png"]
    for key, value in FLAGS[name].items():
        assert image["settings"][key]["value"] == value, key
        if (name, key) != ("barn", "model.clip_skip"):  # of which it says nothing
            assert image["settings"][key]["origin"] == "metadata (A1111)", key
    [hires] = [stage for stage in image["stages"] if stage["name"] == "hires"]
    used = {"fox": {"name": "style", "text": 0.8, "unet": 0.8}, "barn": {"name": "ink", "text": 0.5, "unet": 0.9}}
    assert hires["facts"]["loras"] == [used[name]] and hires["facts"]["steps_run"] == FLAGS[name]["generate.steps"]


@pytest.mark.parametrize("name", INFOTEXTS)
def test_what_is_written_says_it_again(work: Path, name: str) -> None:
    texts = read(work / "out" / f"{name}.png").texts
    before, after = metadata.read({"parameters": INFOTEXTS[name]}), metadata.read(texts)
    assert before and after and after.settings() == before.settings()
    first, second = parse(INFOTEXTS[name]).fields, parse(texts["parameters"]).fields
    kept = {key: value for key, value in first.items() if key not in ("Version", "Hires prompt")}
    assert second.items() >= kept.items(), "what was said of the first pass stays, known to us or not"
    assert (second["Denoising strength"], second["Hires upscale"], second["Hires upscaler"]) == (
        "0.5",
        "2.0",
        "Lanczos",
    )
    assert second["Version"].startswith("tilehires ") and "Hires prompt" not in second
