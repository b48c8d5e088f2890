"""Pictures from prompts: the first pass against diffusers' own pipeline, prompt jobs in folders, previews, kept first passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from tests import tiny
from tests.batches import Workplace, draw, outputs, workplace
from tilehires.diffusion import samplers
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import inspect
from tilehires.regress.render import identify, render
from tilehires.regress.suite import load

PROMPT = "a photo of a cat"
SMALL = ("--set", "generate.width=64", "--set", "generate.height=64", "--set", "generate.scheduler=Automatic")
FIRST = (*SMALL, "--set", "generate.steps=3", "--set", "generate.sampler=Euler", "--set", "generate.cfg=5")
SECOND = ("--steps", "2", "--denoise", "0.5", "--set", "hires.upscaler=Lanczos", "--set", "check.enabled=false")
CHEAP = ("--denoise", "0", "--set", "hires.upscaler=Lanczos", "--set", "check.enabled=false")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tiny.sd15(), tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def levels(path: Path) -> np.ndarray:
    """RGB as the file holds it, 16 bits."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None and found.dtype == np.uint16
    return found[..., ::-1].astype(np.int64)


def made(place: Workplace, checkpoint: Path, *words: str, output: Path | None = None) -> dict[str, bytes]:
    ended = place.command("generate", *words, "-o", output or place.output, "--checkpoint", checkpoint, *FIRST)
    assert ended.code == 0, ended.err
    return outputs(output or place.output)


def test_the_first_pass_is_the_stock_pipelines(place: Workplace, checkpoint: Path) -> None:
    bits = ("--first-pass-only", "--seed", "7", "--set", "run.bits=16", "--negative-prompt", "blurry")
    [name] = made(place, checkpoint, PROMPT, *bits)
    pipe: Any = StableDiffusionPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    known = Bay().diffusion(inspect(str(checkpoint))).scheduler_config
    pipe.scheduler = samplers.make("Euler", "Automatic", known)
    [want] = pipe(
        PROMPT,
        negative_prompt="blurry",
        width=64,
        height=64,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images
    off = np.abs(levels(place.output / name) - np.floor(want * 65535 + 0.5).astype(np.int64)).max()
    assert off <= 1, f"off by {off} of 65535: from equal latents nothing but rounding may differ"


def test_a_preview_is_gone_on_from_and_the_first_pass_kept(place: Workplace, checkpoint: Path) -> None:
    [name] = made(place, checkpoint, PROMPT, "--first-pass-only", *SECOND)
    preview = np.asarray(Image.open(place.output / name))
    assert preview.shape == (64, 64, 3)
    keep = ("--set", "hires.keep_before=true")
    files = made(place, checkpoint, PROMPT, *SECOND, *keep)
    [image] = place.images().values()
    assert place.cached_stages(image["id"])["generate"], "the preview's first pass was made again"
    assert files.keys() == {name, image["before"]["path"]} and image["input"] is None
    assert image["before"]["path"] == name.replace(".png", ".before.png")
    assert np.array_equal(np.asarray(Image.open(place.output / image["before"]["path"])), preview)
    assert Image.open(place.output / name).size == (128, 128)
    assert made(place, checkpoint, PROMPT, *SECOND, *keep) == files
    assert all(place.cached_stages(image["id"]).values()), "an equal run did something"
    fresh = made(place, checkpoint, PROMPT, *SECOND, *keep, output=place.root / "fresh")
    assert fresh == files, "a run that goes on from a preview differs from one in a piece"
    (place.output / image["before"]["path"]).unlink()
    assert made(place, checkpoint, PROMPT, *SECOND, *keep) == files, "a kept first pass that was lost didn't come back"


def test_another_seed_is_another_file_and_a_prompt_said_twice_goes_on(place: Workplace, checkpoint: Path) -> None:
    (place.root / "prompts.txt").write_text("a cat\n\n  a dog  \na cat\n", encoding="utf-8")
    only = ("--first-pass-only", "--seed", "5")
    made(place, checkpoint, "-f", str(place.root / "prompts.txt"), *only)
    seeds = sorted((image["settings"]["generate.prompt"]["value"], image["seed"]) for image in place.images().values())
    assert seeds == [("a cat", 5), ("a cat", 6), ("a dog", 5)]
    assert len(set(outputs(place.output).values())) == 3
    made(place, checkpoint, "a cat", "--first-pass-only", "--seed", "6")
    assert len(outputs(place.output)) == 3, "the same prompt and seed are the same file"
    made(place, checkpoint, "a cat", "--first-pass-only", "--seed", "9", "--count", "2")
    assert len(outputs(place.output)) == 5


def test_a_folder_mixes_images_and_prompts(place: Workplace, checkpoint: Path) -> None:
    draw(place.input / "photo.png")
    (place.input / "photo.txt").write_text("the photo's own prompt", encoding="utf-8")
    (place.input / "fox.txt").write_text("a red fox\nNegative prompt: blur", encoding="utf-8")
    (place.input / "fox.toml").write_text("[generate]\ncount = 2\nseed = 40\n", encoding="utf-8")
    (place.input / "sub").mkdir()
    (place.input / "sub" / "owl.toml").write_text('[generate]\nprompt = "an owl"\n', encoding="utf-8")
    (place.input / "empty.toml").write_text("[generate]\nsteps = 2\n", encoding="utf-8")
    (place.input / "wrong.toml").write_text("[generate]\nstep = 2\n", encoding="utf-8")
    (place.input / "bytes.txt").write_bytes(b"\xff\xfe")
    words = ("--checkpoint", checkpoint, *FIRST, *CHEAP)
    assert place.run(*words).code == 0
    skipped = {name: image["notes"] for name, image in place.images().items() if image["status"] == "skipped"}
    assert skipped.keys() == {"fox.txt", "fox.toml", "sub/owl.toml", "empty.toml", "wrong.toml", "bytes.txt"}
    assert "--generate" in skipped["fox.txt"][0]
    plan = place.command("plan", place.input, "--generate", *words).out
    assert "fox.txt#2 -> fox-2.png" in plan and "generate 64x64" in plan

    assert place.run("--generate", *words).code == 3
    images = place.images()
    done = {name: image["output"]["path"] for name, image in images.items() if image["status"] == "done"}
    assert done == {
        "photo.png": "photo.png",
        "fox.txt#1": "fox-1.png",
        "fox.txt#2": "fox-2.png",
        "sub/owl.toml": "sub/owl.png",
    }
    assert [images[f"fox.txt#{n}"]["seed"] for n in (1, 2)] == [40, 41]
    assert [stage["name"] for stage in images["fox.txt#1"]["stages"]] == ["generate", "hires", "write"]
    assert images["fox.txt#1"]["settings"]["generate.negative_prompt"]["value"] == "blur"
    assert [stage["name"] for stage in images["photo.png"]["stages"]] == ["hires", "write"]
    assert images["photo.png"]["settings"]["generate.prompt"]["value"] == "the photo's own prompt"
    errors = {name: image["error"]["message"] for name, image in images.items() if image["status"] == "failed"}
    assert errors.keys() == {"empty.toml", "wrong.toml", "bytes.txt"}
    assert "no prompt" in errors["empty.toml"] and "generate.step" in errors["wrong.toml"]

    ended = place.run("--generate", "--first-pass-only", *words)
    assert place.statuses()["photo.png"] == "skipped" and "no first pass" in ended.out
    assert Image.open(place.output / "fox-1.png").size == (64, 64)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say one of"),
        (("a cat", "--prompt", "a dog"), "Say one of"),
        (("",), "empty"),
        (("-f", "nowhere.txt"), "nowhere.txt"),
        (("a cat", "--set", "generate.sampler=Restart"), "Restart"),
        (("a cat", "--set", "generate.width=9000"), "generate.width"),
        (("a cat <lora:nowhere:1>", "--set", "generate.count=0"), "generate.count"),
    ],
)
def test_bad_requests_are_refused_before_any_work(place: Workplace, words: tuple[str, ...], said: str) -> None:
    ended = place.command("generate", *words, "-o", place.output)
    assert ended.code == 2 and said in ended.err
    assert not place.output.exists()


def test_previews_of_images_alone_are_refused(place: Workplace) -> None:
    draw(place.input / "a.png")
    ended = place.run("--first-pass-only")
    assert ended.code == 2 and "--generate" in ended.err


def test_a_regression_suite_renders_prompts(tmp_path: Path, checkpoint: Path) -> None:
    numbers = [word for word in FIRST[1::2] if word[-1].isdigit()]
    settings = "\n".join(f'"{key}" = {value}' for key, _, value in (word.partition("=") for word in numbers))
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'[[case]]\nname = "cat"\nprompt = "a cat"\nseed = 3\n[case.set]\n"model.checkpoint" = "{checkpoint}"\n'
        f'"hires.denoise" = 0.0\n"hires.upscaler" = "Lanczos"\n{settings}\n',
        encoding="utf-8",
    )
    [case] = load(suite).cases
    assert identify(case).settings["generate.prompt"] == "a cat"
    first, second = render(case), render(case)
    assert first.pixels.shape == (128, 128, 3) and first.png == second.png
