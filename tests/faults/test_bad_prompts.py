"""What prompts and samplers name and can't be had, beside single images: it costs that image or is a note, never the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import loras, tiny
from tests.batches import draw, outputs
from tilehires.cli import main
from tilehires.errors import ExitCode
from tilehires.report import load

# Files beside an image: what its error must say; None: a note, and the image is done.
WRONG: dict[str, tuple[str, str | None]] = {
    "missing lora": ("a <lora:nothing:1> cat", "no LoRA 'nothing'"),
    "family lora": ("a <lora:large:1> cat", "is a LoRA for sdxl, and the checkpoint is sd1"),
    "narrow lora": ("a <lora:narrow:1> cat", "narrow.safetensors"),
    "lora weight": ("a <lora:style:much> cat", "'much' is no weight"),
    "hypernet": ("a <hypernet:style:1> cat", "Hypernetworks"),
    "embedding": ("a wide cat", "48"),
    "brackets": ("a ((cat] (sat", None),
}
NOTES = {"brackets": "no partner"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """(output folder, the report's images by stem) of one run over all of WRONG and a good image before and after each."""
    root = tmp_path_factory.mktemp("prompts")
    pipe, other = tiny.sd15(), tiny.sdxl()
    checkpoint = tiny.write_single_file(pipe, root / "model.safetensors")
    for folder in ("models/loras", "models/embeddings"):
        (root / folder).mkdir(parents=True)
    loras.write(pipe, root / "models/loras/style.safetensors", "kohya", loras.halves(pipe))
    loras.write(other, root / "models/loras/large.safetensors", "kohya", loras.halves(other))
    narrow = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 5),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(64, 2),
    }
    save_file(narrow, root / "models/loras/narrow.safetensors")
    save_file({"emb_params": torch.zeros(2, 48)}, root / "models/embeddings/wide.safetensors")
    for number, (name, (prompt, _)) in enumerate(WRONG.items()):
        draw(root / "in" / f"{number} before.png", 16, 12)
        draw(root / "in" / f"{number} {name}.png", 16, 12)
        (root / "in" / f"{number} {name}.txt").write_text(prompt, encoding="utf-8")
    draw(root / "in" / "9 last.png", 16, 12)
    words = ["run", str(root / "in"), "-o", str(root / "out"), "-q", "--checkpoint", str(checkpoint), "--steps", "1"]
    words += ["--denoise", "0.5", "--set", "generate.cfg=1", "--set", "hires.upscaler=Lanczos"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(root)
        main(words)
    assert ended.value.code == ExitCode.IMAGES_FAILED
    yield root / "out", {Path(image["id"]).stem: image for image in load(root / "out")["images"]}


def test_the_others_are_done_whatever_one_image_names(ran: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, images = ran
    good = [name for name in images if name.endswith(("before", "last"))]
    assert len(good) == len(WRONG) + 1 and len(images) == 2 * len(WRONG) + 1
    assert {images[name]["status"] for name in good} == {"done"}
    made = outputs(folder)
    assert len({made[f"{name}.png"] for name in good}) == 1, "nothing of another image's wishes stays on the model"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_of_its_image(ran: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    image = next(image for stem, image in ran[1].items() if stem.endswith(name))
    said = WRONG[name][1]
    if said is None:
        assert image["status"] == "done" and any(NOTES[name] in note for note in image["notes"])
    else:
        assert image["status"] == "failed" and said in image["error"]["message"] and image["error"]["hint"]
