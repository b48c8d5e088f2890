"""Pickles never run: for every kind of model file, one whose pickle would run a command, in each of torch's wrappings."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tilehires import detectors, upscalers
from tilehires.diffusion import checkpoints, controlnets, embeddings, lora, merge
from tilehires.diffusion.loading import load_vae
from tilehires.errors import MissingError, TilehiresError
from tilehires.upscalers.restore import FaceRestorer


class Payload:
    """On unpickling, runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def zipped(body: Any, path: Path) -> None:
    torch.save(body, path)


def legacy(body: Any, path: Path) -> None:
    torch.save(body, path, _use_new_zipfile_serialization=False)


def bare(body: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(body))


WRAPPINGS = (zipped, legacy, bare)

LOADERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda path: checkpoints.inspect(str(path)),
    "checkpoint folder": lambda path: checkpoints.inspect(str(folder(path, "unet/diffusion_pytorch_model.bin"))),
    "VAE": lambda path: load_vae(path, torch.float32),
    "VAE folder": lambda path: load_vae(folder(path, "diffusion_pytorch_model.bin"), torch.float32),
    "ControlNet": lambda path: controlnets.inspect(str(path), checkpoints.inspect("builtin")),
    "LoRA": lambda path: lora.check(path, "sd1"),
    "LoRA's tensors": lora.read,
    "embedding": lambda path: embeddings.read(embeddings.Embedding(path.stem, path)),
    "upscaler": lambda path: upscalers.check(str(path)),
    "face restorer": lambda path: FaceRestorer(path),
    "detector": lambda path: detectors.check(detectors.find(str(path))),
}


def folder(path: Path, inside: str) -> Path:
    """A diffusers folder whose weights are that file."""
    place = path.parent / "model"
    weights = place / inside
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(path.read_bytes())
    for name in ("config.json", "model_index.json", "unet/config.json"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
    return place


def test_the_payload_does_run_where_it_is_let(tmp_path: Path) -> None:
    for write in WRAPPINGS:
        mark = tmp_path / write.__name__
        write({"model": Payload(mark)}, tmp_path / "file.pt")
        if write is bare:
            pickle.loads((tmp_path / "file.pt").read_bytes())
        else:
            torch.load(tmp_path / "file.pt", weights_only=False)
        assert mark.exists(), "the other tests here would prove nothing"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_runs_a_pickle(tmp_path: Path, loader: str, suffix: str) -> None:
    mark = tmp_path / "ran"
    for write in WRAPPINGS:
        path = tmp_path / f"{write.__name__}{suffix}"
        write({"state_dict": {"a": torch.zeros(2)}, "model": Payload(mark)}, path)
        with pytest.raises(TilehiresError) as refused:
            LOADERS[loader](path)
        assert not mark.exists(), "the file's code has run"
        assert refused.value.hint


def test_a_merge_and_a_look_at_a_vae_run_none(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    zipped({"model": Payload(mark)}, tmp_path / "a.ckpt")
    with pytest.raises(TilehiresError):
        merge.merge(tmp_path / "a.ckpt", tmp_path / "a.ckpt", 0.5, tmp_path / "out.safetensors")
    checkpoints.other_vae(str(tmp_path / "a.ckpt"))
    assert not mark.exists()


def test_a_zip_that_hides_a_pickle_beside_good_weights(tmp_path: Path) -> None:
    """torch reads data.pkl alone; whatever else is in the archive stays unread."""
    mark = tmp_path / "ran"
    path = tmp_path / "two.pth"
    zipped({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("two/extra/data.pkl", pickle.dumps(Payload(mark)))
        archive.writestr("two/code/__torch__.py", f"import os; os.system('touch {mark}')")
    with pytest.raises(MissingError):
        upscalers.check(str(path))
    assert not mark.exists()
