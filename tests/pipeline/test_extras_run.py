"""LoRAs and embeddings in whole runs: from tags, settings and metadata, found, counted, left out or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from tests import loras, tiny
from tests.batches import Workplace, drawing, outputs, workplace

QUICK = ("--steps", "1", "--denoise", "0.5", "--set", "generate.cfg=1", "--set", "hires.upscaler=Lanczos")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd15()


@pytest.fixture(scope="module")
def checkpoint(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_single_file(pipe, tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def work(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workplace]:
    monkeypatch.chdir(tmp_path)
    for folder in ("models/loras", "models/embeddings"):
        (tmp_path / folder).mkdir(parents=True)
    loras.write(pipe, tmp_path / "models/loras/style.safetensors", "kohya", loras.halves(pipe))
    yield workplace(tmp_path, capsys, monkeypatch)


def draw(work: Workplace, name: str, prompt: str | None = None) -> None:
    info = PngImagePlugin.PngInfo()
    if prompt is not None:
        info.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 24x16")
    Image.fromarray(drawing(24, 16)).save(work.input / name, pnginfo=info)


def pixels(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / name) as image:
        return np.asarray(image.convert("RGB"))


def facts(work: Workplace, name: str) -> dict[str, Any]:
    return work.images()[name]["stages"][0]["facts"]


def test_tags_and_settings_put_loras_on_each_image_alone(work: Workplace, checkpoint: Path) -> None:
    draw(work, "a.png", "a cat")
    draw(work, "b.png", "a cat <lora:style:0.8:0.5>")
    flags = (*QUICK, "--checkpoint", checkpoint)
    assert work.run(*flags).code == 0
    first = pixels(work.output, "b.png")
    assert (first != pixels(work.output, "a.png")).any()
    assert "loras" not in facts(work, "a.png")
    assert facts(work, "b.png")["loras"] == [{"name": "style", "text": 0.8, "unet": 0.5}]
    (work.input / "a.png").unlink()
    same, other = work.root / "same", work.root / "other"
    assert work.run(*flags, "--set", "model.loras=style:0", output=same).code == 0
    assert (pixels(same, "b.png") == first).all(), "at weight 0 a LoRA changes nothing; nor does the image before"
    assert work.run(*flags, "--set", "hires.loras=style:0.1:0.2", output=other).code == 0
    assert (pixels(other, "b.png") != first).any(), "a setting's LoRA and the prompt's add up"


def test_another_file_of_the_same_name_redoes_the_pass(work: Workplace, checkpoint: Path) -> None:
    draw(work, "a.png", "a cat")
    flags = (*QUICK, "--checkpoint", checkpoint, "--set", "hires.loras=style:0.8")
    work.run(*flags)
    assert work.cached_stages("a.png")["hires"] is False
    first = outputs(work.output)
    work.run(*flags)
    assert work.cached_stages("a.png")["hires"] is True
    file = work.root / "models/loras/style.safetensors"
    save_file({name: value * 2 for name, value in load_file(file).items()}, file)
    work.run(*flags)
    assert work.cached_stages("a.png")["hires"] is False, "the file's hash must be in the fingerprint"
    assert outputs(work.output) != first


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--prompt", "a <lora:nothing:1>"), 5, "model.lora_folder"),
        (("--set", "model.loras=nothing:0.5"), 5, "model.lora_folder"),
        (("--set", "tiled.loras=nothing"), 5, "model.lora_folder"),
        (("--prompt", "a <lora:style:much>"), 2, "no weight"),
        (("--prompt", "a <hypernet:style:1>"), 2, "Hypernetworks"),
        (("--prompt", "a <lora:flux:1>"), 5, "family"),
        (("--prompt", "a wide dog"), 5, "48"),
    ],
)
def test_what_the_user_names_and_is_not_there_ends_the_run(
    work: Workplace, checkpoint: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    draw(work, "a.png")
    bad = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 4)}
    save_file(bad, work.root / "models/loras/flux.safetensors")
    save_file({"emb_params": torch.zeros(2, 48)}, work.root / "models/embeddings/wide.safetensors")
    ended = work.run(*QUICK, "--checkpoint", checkpoint, *words)
    assert ended.code == code, ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_what_metadata_names_and_is_not_there_is_a_note(work: Workplace, checkpoint: Path, pipe: Any) -> None:
    other = tiny.sdxl()
    loras.write(other, work.root / "models/loras/large.safetensors", "kohya", loras.halves(other))
    narrow = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 5),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(64, 2),
    }
    save_file(narrow, work.root / "models/loras/narrow.safetensors")
    save_file({"emb_params": torch.zeros(2, 48)}, work.root / "models/embeddings/wide.safetensors")
    tags = "<lora:nothing:1> <lora:large:1> <lora:narrow:1> <lora:style:x> <hypernet:h:1> <lora:../../style:1>"
    draw(work, "a.png", f"a (wide cat {tags}")
    ended = work.run(*QUICK, "--checkpoint", checkpoint)
    assert ended.code == 0, ended.err
    notes = " ".join(work.images()["a.png"]["notes"])
    for word in ("nothing", "large.safetensors", "'x' is no weight", "Hypernetworks", "'../../style'", "no partner"):
        assert word in notes, notes
    left = " ".join(facts(work, "a.png")["left_out"])
    assert "narrow.safetensors" in left
    assert "48" in left
    assert "loras" not in facts(work, "a.png")


def test_an_embedding_in_the_folder_stands_for_its_name(work: Workplace, checkpoint: Path) -> None:
    draw(work, "a.png", "a cat, sketchy")
    flags = (*QUICK, "--checkpoint", checkpoint)
    work.run(*flags)
    plain = outputs(work.output)
    rows = torch.randn((3, 32), generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": rows}, work.root / "models/embeddings/sketchy.safetensors")
    work.run(*flags)
    assert work.cached_stages("a.png")["hires"] is False, "a new file in the folder changes what the word means"
    assert facts(work, "a.png")["embeddings"] == ["sketchy"]
    assert outputs(work.output) != plain
