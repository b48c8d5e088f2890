"""`tilehires models inspect` on LoRA and embedding files: what they are, read without running anything."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import loras, tiny
from tilehires.cli import main


def told(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["models", "inspect", str(path)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


@pytest.mark.parametrize("naming", ["diffusers", "peft", "kohya", "ldm"])
def test_a_lora_tells_family_parts_and_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], naming: loras.Naming
) -> None:
    pipe = tiny.sd15()
    metadata = {
        "ss_output_name": "style\x1b[31m red",
        "ss_sd_model_name": "v1-5-pruned.safetensors",
        "ss_base_model_version": "sd_v1",
        "ss_network_alpha": "4",
        "modelspec.trigger_phrase": "in the style of nobody",
        "ss_tag_frequency": json.dumps({"10_cat": {"a cat": 10, "grass": 3}, "5_dog": {"a cat": 5, "sky": 20}}),
    }
    changes = loras.halves(pipe)
    path = loras.write(pipe, tmp_path / "style.safetensors", naming, changes, metadata)
    code, said = told(capsys, path)
    assert code == 0, said
    assert f"{path}: a LoRA" in said and "usable      yes" in said and "rank        2 to 3" in said
    assert "UNet" in said and "text encoder" in said and "\x1b" not in said
    assert sum(int(part.split(" modules")[0]) for part in said.split("(")[1:] if " modules" in part) == len(changes)
    assert "title       style [31m red" in said and "trained on  v1-5-pruned.safetensors" in said
    assert "trigger     in the style of nobody" in said and "tags        sky (20), a cat (15), grass (3)" in said
    assert "alpha       4" in said and "sha256" in said


@pytest.mark.parametrize(
    ("name", "width", "family"),
    [
        ("lora_unet_a_attn2_to_k.lora_down.weight", 768, "sd1"),
        ("lora_unet_a_attn2_to_k.lora_down.weight", 2048, "sdxl"),
    ],
)
def test_the_family_shows_in_the_width_of_what_it_listens_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, width: int, family: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(4, width), name.replace("down", "up"): torch.zeros(8, 4)}, path)
    code, said = told(capsys, path)
    assert code == 0 and f"family      {family}" in said and "rank        4" in said


def test_a_lora_that_cannot_be_used_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locon, flux = tmp_path / "locon.safetensors", tmp_path / "flux.safetensors"
    save_file({"lora_unet_a.hada_w1_a": torch.zeros(4, 4)}, locon)
    save_file({"lora_unet_double_blocks_0_img.lora_down.weight": torch.zeros(4, 4)}, flux)
    code, said = told(capsys, locon)
    assert code == 0 and "usable      no: locon.safetensors is a LyCORIS or DoRA file" in said
    code, said = told(capsys, flux)
    assert code == 0 and "usable      no: it is for another family" in said


@pytest.mark.parametrize("wrong", ["{" * 100_000, "[]", '{"a": 3}', '{"a": {"b": "many"}}', "no json"])
def test_metadata_that_are_nonsense_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(4, 8)}, path, {"ss_tag_frequency": wrong})
    code, said = told(capsys, path)
    assert code == 0 and "a LoRA" in said and "tags" not in said


def test_an_embedding_tells_family_word_vectors_and_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, small, pair = tmp_path / "bad-hands.pt", tmp_path / "tiny.bin", tmp_path / "xl.safetensors"
    body = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "hands", "step": 500}
    torch.save({**body, "sd_checkpoint_name": "v1-5"}, old)
    torch.save({"<bad>": torch.zeros(3, 1024)}, small)
    save_file({"clip_l": torch.zeros(4, 768), "clip_g": torch.zeros(4, 1280)}, pair, {"modelspec.title": "Nice"})
    for path, lines in (
        (old, ("family      sd1", "word        bad-hands", "vectors     2", "width       768", "steps       500")),
        (small, ("family      sd2", "vectors     3", "width       1024")),
        (pair, ("family      sdxl", "vectors     4", "width       768 and 1280", "title       Nice")),
    ):
        code, said = told(capsys, path)
        assert code == 0 and f"{path}: an embedding" in said, said
        assert all(line in said for line in lines), said
    assert "trained on  v1-5" in told(capsys, old)[1]


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ".ckpt"])
def test_a_pickle_with_code_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(pickle.dumps({"string_to_param": {"*": Payload(tmp_path / "ran")}}))
    code, said = told(capsys, path)
    assert code == 5 and "hint:" in said, said
    assert not (tmp_path / "ran").exists(), "the file's code ran"
