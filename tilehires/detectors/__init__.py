"""Detectors for the detail passes: one TOML each, found by name; or a weights file, named directly."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilehires.detectors.protocol import TASKS, Detection, Detector
from tilehires.errors import ConfigError, MissingError

__all__ = ["Detection", "Detector", "DetectorFile", "check", "find", "make", "names", "shipped"]

FOLDER = Path("detectors")
LARGEST = 1 << 20  # bytes: a settings file of more isn't one
BUILTIN = "builtin:face"
YOLO = (".pt", ".onnx")
MEDIAPIPE = (".task", ".tflite")
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class DetectorFile:
    """What a detector's TOML says. `weights`: a path, or "builtin:face". `values`: the parameters of its detail pass."""

    name: str
    weights: str
    classes: tuple[str, ...] = ()
    task: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight file, for fingerprints; none for the built-in one."""
        return () if self.weights == BUILTIN else (Path(self.weights),)

    @property
    def on_device(self) -> bool:
        """Whether it works on the run's device; the others do on the CPU."""
        return Path(self.weights).suffix.lower() in YOLO


def shipped() -> dict[str, Path]:
    """The TOMLs that come with tilehires, by name: the repository's detectors/ or an installed package's copy of it."""
    installed = _PACKAGE / "detectors" / "shipped"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "detectors"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def names() -> tuple[str, ...]:
    """Every detector there is a TOML for, in ./detectors or shipped."""
    return tuple(sorted({*shipped(), *(path.stem for path in FOLDER.glob("*.toml"))}))


def find(reference: str) -> DetectorFile:
    """A detector by name, by the path of its TOML, or by that of its weights.

    Raises ConfigError (2) for an unknown name or a wrong TOML, MissingError (5) where weights are named and not there.
    """
    path = Path(reference).expanduser()
    suffix = path.suffix.lower()
    if suffix in YOLO + MEDIAPIPE:
        return _with_weights(DetectorFile(path.stem, str(path), origin=reference))
    if suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(f"There is no detector {reference}.", hint=_offer(path.stem))
        return _read(path)
    known = {**shipped(), **{found.stem: found for found in sorted(FOLDER.glob("*.toml"))}}
    if reference not in known:
        raise ConfigError(f"There is no detector {reference!r}.", hint=_offer(reference))
    return _read(known[reference])


def make(found: DetectorFile, device: str = "cpu") -> Detector:
    """The detector itself; loads no weights yet."""
    if found.weights == BUILTIN:
        from tilehires.detectors.cascade import FaceCascade

        return FaceCascade()
    path = Path(found.weights)
    if path.suffix.lower() in MEDIAPIPE:
        from tilehires.detectors.mediapipe import Mediapipe

        return Mediapipe(path, task=found.task)
    from tilehires.detectors.yolo import Yolo

    return Yolo(path, classes=found.classes, device=device)


def check(found: DetectorFile) -> None:
    """Make sure, before a run begins, that a detector works: its file is loaded whole, and let go again.

    Raises MissingError for one that is missing, damaged, unsafe or no detector.
    """
    import numpy as np

    detector = make(found)
    if detector.files:
        detector.detect(np.zeros((64, 64, 3), np.float32), confidence=1.0)
        detector.close()


def _read(path: Path) -> DetectorFile:
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} is larger than any detector's TOML.", hint="Name the TOML, not the weights.")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"The detector {path} can't be read: {error}.", hint="See docs/detectors.md.") from error
    name, weights = table.pop("name", path.stem), table.pop("weights", None)
    classes, task = table.pop("classes", []), table.pop("task", "")
    if not isinstance(name, str) or not isinstance(weights, str) or not weights:
        raise ConfigError(
            f"{path} names no weights.", hint=f'Write weights = "FILE beside it" or weights = "{BUILTIN}".'
        )
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise ConfigError(f"{path}: classes = {classes!r} is no list of names.", hint='Write classes = ["face"].')
    if not isinstance(task, str) or (task and task not in TASKS):
        raise ConfigError(f"{path}: task = {task!r} is unknown.", hint=f"Use one of {', '.join(TASKS)}.")
    if weights != BUILTIN and weights.startswith("builtin:"):
        raise ConfigError(f"{path}: there is no {weights}.", hint=f"The built-in detector is {BUILTIN}.")
    if weights != BUILTIN:
        weights = str(path.parent / Path(weights).expanduser())
    return _with_weights(DetectorFile(name, weights, tuple(classes), task, table, str(path)))


def _with_weights(found: DetectorFile) -> DetectorFile:
    for path in found.files:
        if path.suffix.lower() not in YOLO + MEDIAPIPE:
            raise ConfigError(
                f"{found.origin}: {path.name} is no kind of detector.", hint=f"There are {', '.join(YOLO + MEDIAPIPE)}."
            )
        if not path.is_file():
            raise MissingError(
                f"The detector {found.name} needs {path}, which is not there.",
                hint="Put the file there, or name another in its TOML. Nothing is downloaded unasked.",
            )
    return found


def _offer(asked: str) -> str:
    known = names()
    near = difflib.get_close_matches(asked.lower(), known, n=1)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    return f"{meant}There are: {', '.join(known)}; or give a TOML or a weights file ({', '.join(YOLO + MEDIAPIPE)})."
