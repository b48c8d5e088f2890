"""Folders of small images, and the program run on them: what the tests of whole runs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilehires.cli import main
from tilehires.errors import ExitCode

FAST = ("--denoise", "0", "--set", "hires.upscaler=Lanczos")
"""No model at all: a run then takes tenths of a second."""


def drawing(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with some texture, uint8 H×W×3; nothing in it is flat or black."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [0.5 + 0.3 * np.sin(x / (5 + seed + c) + c) * np.cos(y / (7 + c)) for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 0.03, (height, width, 3))
    return (np.clip(np.stack(waves, -1) + noise, 0.05, 0.95) * 255).astype(np.uint8)


def draw(path: Path, width: int = 24, height: int = 16, seed: int = 0, **options: Any) -> Path:
    """The same as a file, in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing(width, height, seed)).save(path, **options)
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Workplace:
    """An input and an output folder, and the program."""

    root: Path
    capture: pytest.CaptureFixture[str]

    @property
    def input(self) -> Path:
        return self.root / "in"

    @property
    def output(self) -> Path:
        return self.root / "out"

    def run(self, *words: str | Path, source: Path | None = None, output: Path | None = None) -> Ended:
        """`tilehires run` in this process."""
        return self.command("run", source or self.input, "-o", output or self.output, *words)

    def command(self, *words: str | Path) -> Ended:
        """Any command in this process, with what it said."""
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = self.capture.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report" / "report.json").read_text(encoding="utf-8"))

    def images(self) -> dict[str, dict[str, Any]]:
        """The report's images by id."""
        return {image["id"]: image for image in self.report()["images"]}

    def statuses(self) -> dict[str, str]:
        return {name: image["status"] for name, image in self.images().items()}

    def cached_stages(self, name: str) -> dict[str, bool]:
        """By stage, whether it came from the cache."""
        return {stage["name"]: stage["cached"] for stage in self.images()[name]["stages"]}


def workplace(root: Path, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """An empty input folder, an output folder still to be made, and the process's hooks put back afterwards."""
    (root / "in").mkdir()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["tilehires"])
    return Workplace(root, capture)


def outputs(folder: Path) -> dict[str, bytes]:
    """The finished files of an output folder, by path."""
    ours = ("report", ".tilehires")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.relative_to(folder).parts[0] not in ours
    }


def refused(ended: Ended, code: ExitCode) -> str:
    """Message and hint of a run that didn't begin."""
    assert ended.code == code, f"{ended.code}: {ended.out}{ended.err}"
    assert "error: " in ended.err and "hint: " in ended.err and "Traceback" not in ended.err
    return ended.err


def leftovers(folder: Path) -> Sequence[Path]:
    """Temporary files, under whatever name tilehires makes them."""
    staged = folder / ".tilehires" / "staging"
    return [*folder.rglob("*tilehires-tmp*"), *(staged.iterdir() if staged.is_dir() else ())]
