"""Object stores for tests: what lies in one, settings of a machine that works into it, and fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tests.batches import draw, outputs
from tilehires import upscalers
from tilehires.batch import object_lock, objects
from tilehires.batch.runner import run
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.records import FileRecord

HIRES = {"scale": 2, "denoise": 0.0, "upscaler": "Lanczos"}


def machine(half: Path, **run: Any) -> Config:
    """Settings without a model, of a machine that keeps its half of any store there."""
    values = {"device": "cpu", "decode_isolated": False, "overlap": False, "local_folder": str(half), **run}
    return Config.load().with_layer({"run": values, "hires": HIRES}, "test")


def listed(url: str) -> dict[str, bytes]:
    """All objects below a URL."""
    fs, root = fsspec.core.url_to_fs(url)
    return {name[len(root) + 1 :]: fs.cat_file(name) for name in fs.find(root)}


def stored(url: str) -> dict[str, bytes]:
    """The finished files there."""
    return {name: data for name, data in listed(url).items() if not name.startswith((".tilehires/", "report/"))}


def put(url: str, data: bytes) -> None:
    """Have an object as another program would."""
    fs, path = fsspec.core.url_to_fs(url)
    fs.pipe_file(path, data)


def drop(url: str) -> None:
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm_file(path)


def published(workspace: Workspace, data: bytes) -> FileRecord:
    (workspace.staging / "a").write_bytes(data)
    return FileRecord("a.png", (1, 1), workspace.publish(workspace.staging / "a", "a.png"))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW", 0.05), ("PATIENCE", 0.3), ("LOOK", 0.05), ("SETTLE", 0.0)):
        monkeypatch.setattr(object_lock, name, seconds)
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.0))
    known = entry_points(group=upscalers.GROUP)
    monkeypatch.setattr(upscalers, "entry_points", lambda group: known)  # half of such a run's time


@pytest.fixture
def store() -> Iterator[str]:
    """The address of an empty store in this process's memory."""
    bucket = uuid4().hex
    yield f"memory://{bucket}/results"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{bucket}"):
        fs.rm(f"/{bucket}", recursive=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("a.png", "b.png", "d/d [1].png")):
        draw(folder / name, 12, 8, seed)
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run into a folder makes of them."""
    folder = tmp_path_factory.mktemp("plain")
    assert run(machine(folder), inputs, folder / "out").done == 3
    return outputs(folder / "out")
