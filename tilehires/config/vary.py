"""`--vary section.key=a,b,c`: settings that a sweep goes through, and the cells that follow from them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tilehires.config.config import Config
from tilehires.config.layers import check_names
from tilehires.config.override import parse_set
from tilehires.errors import ConfigError

AXES = 2
LONGEST = 32  # values of one axis
OF_THE_FILE = ("format", "quality", "bits")
"""The settings of [run] that make another file; the others are one for all cells, or change no picture."""
NAMED = 40  # characters of a value in a file name


@dataclass(frozen=True)
class Axis:
    """A setting ("hires.denoise") and the values it takes in turn, each as a layer of settings."""

    setting: str
    layers: tuple[Mapping[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Cell:
    """One place of a sweep: the varied settings' values as they are in effect (plain JSON), and all settings."""

    name: str
    """A file name's stem that tells the values, and no two cells of a sweep share."""
    values: Mapping[str, Any]
    config: Config = field(repr=False)


def parse_vary(text: str) -> Axis:
    """An axis from "section.key=a,b,c", or from a TOML list where values hold commas: section.key=["a, b", "c"].

    Each value is read as that of --set is. Raises ConfigError on an unknown setting, and when there is no value.
    """
    name, equals, listed = text.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(
            f"--vary {text!r} is not section.key=a,b,c.", hint="For example: --vary hires.denoise=0.2,0.3,0.4"
        )
    check_names({section: {key: None}}, f"--vary {name}")
    if section == "run" and key not in OF_THE_FILE:
        raise ConfigError(
            f"--vary {name}: this setting is one for all cells of a sweep, or changes no picture.",
            hint=f"Of [run], {', '.join(OF_THE_FILE)} can be varied; docs/settings.md lists the other sections.",
        )
    layers = tuple(
        parse_set(f"{name}={value}") if isinstance(value, str) else {section: {key: value}}
        for value in _listed(listed.strip())
    )
    if not layers:
        raise ConfigError(f"--vary {name} has no values.", hint=f"For example: --vary {name}=a,b,c")
    if len(layers) > LONGEST:
        raise ConfigError(f"--vary {name} has {len(layers)} values.", hint=f"At most {LONGEST} can be compared.")
    return Axis(name, layers)


def _listed(text: str) -> list[Any]:
    """The values of a list: of a TOML list as they are, otherwise the texts between commas."""
    if not text.startswith("[") and not {'"', "'"} & set(text):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        table = tomllib.loads(f"value = {text if text.startswith('[') else f'[{text}]'}")
    except tomllib.TOMLDecodeError:
        table = {}
    if set(table) == {"value"} and isinstance(table["value"], list):
        return table["value"]
    return [part.strip() for part in text.split(",") if part.strip()]


def cells_of(config: Config, axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """Every combination, the first axis running fastest. Raises ConfigError on a value that doesn't validate, on one that is
    there twice, and on more than two axes, or none.
    """
    names = [axis.setting for axis in axes]
    if not axes or len(axes) > AXES:
        raise ConfigError(
            f"A sweep varies one setting or two, not {len(axes)}.",
            hint="Settle one first, then vary the next: --vary can be given twice.",
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--vary {names[0]} is there twice.", hint="Give all of its values at once: a,b,c.")
    cells: list[Cell] = []
    for layers in itertools.product(*(axis.layers for axis in reversed(axes))):
        mine = config
        for name, layer in zip(names, reversed(layers), strict=True):
            mine = mine.with_layer(layer, f"--vary {name}")
        settings = mine.settings.model_dump(mode="json")
        values = {name: _found(settings, name) for name in names}
        if any(cell.values == values for cell in cells):
            said = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise ConfigError(f"A value of --vary is there twice: {said}.", hint="Leave one of them out.")
        cells.append(Cell(_name(values), values, mine))
    count = Counter(cell.name.casefold() for cell in cells)
    # Some file systems don't tell A from a.
    return tuple(
        replace(cell, name=f"{cell.name}-{_hash(cell.values)}") if count[cell.name.casefold()] > 1 else cell
        for cell in cells
    )


def _found(settings: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    section, _, key = name.partition(".")
    return settings[section][key]


def shown(value: Any) -> str:
    """A value as people read it in a label."""
    if value is None or value in ("", []):
        return "none" if value != "" else "(empty)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(shown(part) for part in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={shown(part)}" for key, part in value.items() if part is not None)
    return str(value)


def _name(values: Mapping[str, Any]) -> str:
    return ",".join(f"{setting}={_slug(value)}" for setting, value in values.items())


def _slug(value: Any) -> str:
    text = shown(value)
    safe = re.sub(r"[^a-zA-Z0-9.+_-]+", "-", text)[:NAMED].strip(".-")
    # What was left out may tell it from others.
    return safe if safe == text else f"{safe}-{_hash(value)}".lstrip("-")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
