"""report.json and the page, from records (schema: docs/report-json.md)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tilehires import __version__
from tilehires.batch.setup import Setup
from tilehires.batch.summary import Summary
from tilehires.batch.workspace import Workspace
from tilehires.files import atomic, ours
from tilehires.images import Decoder
from tilehires.records import SCHEMA_VERSION
from tilehires.report import write_page

LIBRARIES = ("torch", "diffusers", "transformers", "spandrel", "pillow", "opencv-python", "numpy")


def environment_of(setup: Setup) -> dict[str, Any]:
    """The numeric environment: within one, equal inputs give equal bytes (docs/determinism.md)."""
    return {
        "device": setup.device.type,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "tile_batch": setup.plan.tile_batch,
        "region_batch": setup.plan.region_batch,
    }


def versions() -> dict[str, str]:
    """Of tilehires, Python, and the libraries that shape pictures."""
    ours = {"tilehires": __version__, "python": platform.python_version()}
    return ours | {library: version(library) for library in LIBRARIES}


def report_of(
    summary: Summary,
    workspace: Workspace,
    inputs: Path,
    *,
    started: float,
    command: str,
    setup: Setup,
    decoder: Decoder,
) -> str:
    """Write report/report.json and its page; returns where the page is. `started`: seconds since 1970."""
    folder = workspace.report
    with ours(folder):
        folder.mkdir(parents=True, exist_ok=True)
    body = {
        "version": SCHEMA_VERSION,
        "run": {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command,
            "plan": setup.described_plan(),
            "versions": versions(),
            "device": str(setup.device),
            # Seen from a store, no path leads to this machine's folders.
            "input_folder": inputs.resolve().as_posix() if workspace.url else relative(inputs, folder),
            "output_folder": "..",
        },
        "summary": summary.counts(),
        "images": [record.to_json() for record in summary.records],
    }
    with workspace.reporting(summary.records) as there:
        _write(folder / "report.json", body)
        return workspace.shown(write_page(body, workspace.output, decoder, there))


def _write(path: Path, body: Mapping[str, Any]) -> None:
    """A line for each image: quick to write for ten thousand, and two reports can be compared line by line."""
    head = json.dumps({key: value for key, value in body.items() if key != "images"}, indent=1)
    with atomic(path) as stream:
        stream.write(head.removesuffix("\n}").encode() + b',\n "images": [')
        for number, image in enumerate(body["images"]):
            stream.write((b",\n  " if number else b"\n  ") + json.dumps(image).encode())
        stream.write(b"\n ]\n}\n")


def relative(path: Path, start: Path) -> str:
    """`path` as seen from `start`; absolute where there is no way (another drive on Windows)."""
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
