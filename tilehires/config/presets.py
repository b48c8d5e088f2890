"""Presets: TOML files found by name or path, read with their `extends` chain."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from tilehires.config.layers import Layer, Rank, check_names
from tilehires.errors import ConfigError

LARGEST = 1 << 20  # bytes: a settings file of more isn't one
_PACKAGE = Path(__file__).resolve().parent.parent


def shipped() -> dict[str, Path]:
    """The presets that come with tilehires, by name: the repository's configs/ or an installed package's copy of it."""
    # In a wheel configs/ lies in tilehires/presets (pyproject.toml); in a checkout beside the package.
    installed = _PACKAGE / "presets"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name: str) -> tuple[str, Path]:
    """What to call a preset, and its file. `name` is a path to any TOML, a name from ./configs, or a shipped one's.

    Raises ConfigError when there is none, with the nearest name.
    """
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises on a name that is too long
            return path.name, path
        raise ConfigError(f"There is no settings file {name}.", hint=_offer(path.stem))
    presets = {path.stem: path for path in sorted(Path("configs").glob("*.toml"))}
    presets = {**shipped(), **presets}
    if name not in presets:
        raise ConfigError(f"There is no preset {name!r}.", hint=_offer(name))
    return f"preset {name}", presets[name]


def read(name: str, rank: Rank = Rank.PRESET) -> list[Layer]:
    """The layers of a preset: those that it extends first. Raises ConfigError on unknown names, and on a circle."""
    origin, path = find(name)
    return _chain(origin, path, rank, seen=())


def read_default() -> list[Layer]:
    """The shipped default preset, whatever ./configs of the working folder holds."""
    return _chain("preset default", shipped()["default"], Rank.DEFAULT, seen=())


def read_file(path: Path, origin: str, rank: Rank) -> Layer:
    """One TOML of settings, without `extends`: a sidecar."""
    values = _load(path)
    check_names(values, str(path))
    return Layer(rank, origin, values)


def _chain(origin: str, path: Path, rank: Rank, seen: tuple[Path, ...]) -> list[Layer]:
    here = path.resolve()
    if here in seen:
        circle = " → ".join(step.name for step in (*seen, here))
        raise ConfigError(f"{path} extends itself: {circle}.", hint="Take one of the `extends` lines out.")
    values = _load(path)
    base = values.pop("extends", None)
    check_names(values, str(path))
    layers = []
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(
                f"{path}: extends must be a preset's name or a path.", hint='For example: extends = "sdxl"'
            )
        beside = path.parent / base
        base_origin, base_path = (beside.name, beside) if os.path.isfile(beside) else find(base)  # noqa: PTH113 - as in find
        layers = _chain(base_origin, base_path, rank, (*seen, here))
    return [*layers, Layer(rank, origin, values)]


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST} bytes: no settings file.", hint="Is it the right file?")
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", hint="Check its path and its rights.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: {error}.", hint="Texts need quotes: key = \"text\". Backslashes: key = 'C:\\models'."
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path} nests too deep.", hint="Settings are [section] and key = value.") from error
    if isinstance(values.get("detail"), list):  # [[detail]], the one section that there may be several of
        values["detail"] = {"passes": values["detail"]}
    return values


def _offer(name: str) -> str:
    names = list(shipped())
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"Presets are {', '.join(names)}; a file is named with its .toml."
