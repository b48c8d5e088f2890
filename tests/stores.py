"""Object stores for tests: what lies in one, and settings of a machine that works into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from tilehires.config import Config

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
