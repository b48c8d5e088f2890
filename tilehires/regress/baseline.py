"""Approved renders on disk: per case and environment a lossless PNG and a JSON with how it came about.

Nothing here makes a baseline unasked: one that is missing is an answer of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilehires.errors import TilehiresError
from tilehires.files import atomic, write_json
from tilehires.images import read

VERSION = 1


@dataclass(frozen=True)
class Environment:
    """What a baseline is keyed by: renders made elsewhere differ for reasons that are no regression."""

    device: str
    dtype: str
    torch: str
    """Major and minor version."""
    models: str
    """Hash over the hashes of every weight file in use."""

    @property
    def key(self) -> str:
        """A file name's stem."""
        return f"{self.device}-{self.dtype}-torch{self.torch}-{self.models[:12]}"


@dataclass(frozen=True)
class Baseline:
    """`settings`: the effective ones, "section.key" → value. `history`: who approved what when, why, and what it changed."""

    environment: Environment
    input_sha256: str
    pixels_sha256: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    limits: Mapping[str, float]
    history: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Found:
    """A baseline and its picture, or why there is none that can be used.

    `elsewhere`: it was made in another environment. `damaged`: there is one, and it can't be used.
    """

    baseline: Baseline | None = None
    pixels: np.ndarray | None = None
    reason: str = ""
    elsewhere: bool = False
    damaged: bool = False


def find(folder: Path, case: str, environment: Environment, *, any_environment: bool = False) -> Found:
    """The baseline of a case for this environment; with `any_environment` the newest of another's where there is none."""
    path = folder / case / f"{environment.key}.json"
    if path.is_file():
        return _load(path)
    others = sorted((folder / case).glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name))
    if not others:
        return Found(reason=f"Nothing has been approved for {case} yet.")
    if any_environment:
        found = _load(others[-1])
        return replace(found, elsewhere=True)
    made = ", ".join(other.stem for other in others)
    return Found(reason=f"No baseline of {case} was made in this environment ({environment.key}); there are: {made}.")


def _load(path: Path) -> Found:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["version"] != VERSION:
            return _damaged(f"{path} has version {body['version']}, which this tilehires can't read.")
        baseline = Baseline(
            Environment(**body["environment"]),
            str(body["input_sha256"]),
            str(body["pixels_sha256"]),
            dict(body["settings"]),
            dict(body["versions"]),
            {str(name): float(limit) for name, limit in body["limits"].items()},
            tuple(body["history"]),
        )
        picture = read(path.with_suffix(".png"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _damaged(f"{path} can't be read ({type(error).__name__}): restore it, or approve the case again.")
    except TilehiresError as error:
        return _damaged(f"{error.message} Restore it, or approve the case again.")
    if digest(picture.pixels) != baseline.pixels_sha256:
        return _damaged(
            f"{path.with_suffix('.png')} isn't the picture that was approved: restore it, or approve again."
        )
    return Found(baseline, picture.pixels)


def _damaged(reason: str) -> Found:
    return Found(reason=reason, damaged=True)


def save(folder: Path, case: str, baseline: Baseline, png: bytes) -> Path:
    """Put a rendered PNG and its JSON in place, the picture first: until its JSON follows it is one that wasn't approved."""
    path = folder / case / f"{baseline.environment.key}.json"
    with atomic(path.with_suffix(".png")) as stream:
        stream.write(png)
    write_json(path, {"version": VERSION, **asdict(baseline)})
    return path


def digest(pixels: np.ndarray) -> str:
    """Identity of a picture's pixels and size."""
    levels = (np.clip(pixels, 0, 1) * 65535 + 0.5).astype(np.uint16)
    return hashlib.sha256(repr(levels.shape).encode() + np.ascontiguousarray(levels).tobytes()).hexdigest()
