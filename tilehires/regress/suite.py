"""Suites: the TOML that lists which renders are guarded."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilehires.config import Config
from tilehires.config.override import parse_set
from tilehires.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class _CaseTable(BaseModel):
    """One `[[case]]` as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=rf"^{NAME.pattern}$")
    input: str | None = None
    prompt: str | None = None
    config: str | None = None
    seed: int = Field(0, ge=0, lt=2**64)
    exact: bool = False
    set: Mapping[str, Any] = {}


class _SuiteTable(BaseModel):
    """The whole file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baselines: str = "baselines"
    case: tuple[_CaseTable, ...] = ()


@dataclass(frozen=True)
class Case:
    """One render: an image `input` or a `prompt`, and its settings (seed and `[case.set]` are in `config`).

    `exact`: within one environment any changed pixel is a regression.
    """

    name: str
    input: Path | None
    prompt: str | None
    config: Config = field(repr=False)
    exact: bool = False


@dataclass(frozen=True)
class Suite:
    """Cases in the file's order. `baselines`: the folder of approved renders; `results`: where a run puts its own."""

    path: Path
    baselines: Path
    cases: tuple[Case, ...]

    @property
    def results(self) -> Path:
        return self.path.with_suffix(".results")

    def only(self, pattern: str | None) -> tuple[Case, ...]:
        """The cases whose name matches a shell pattern; all without one. Raises ConfigError when none does."""
        if pattern is None:
            return self.cases
        chosen = tuple(case for case in self.cases if fnmatch.fnmatchcase(case.name, pattern))
        if not chosen:
            raise ConfigError(
                f"No case of {self.path} matches {pattern!r}.",
                hint=f"The cases are: {', '.join(case.name for case in self.cases)}.",
            )
        return chosen


def load(path: Path) -> Suite:
    """Read a suite. Paths in it are relative to the file. Raises ConfigError that names the case and what is wrong with it."""
    try:
        table = _SuiteTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"The suite {path} can't be read: {error.strerror}.", hint="Name a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is no TOML: {error}.", hint="See docs/regression-renders.md for an example."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {place}: {first['msg']}.", hint="docs/regression-renders.md lists what a case may say."
        ) from error
    if not table.case:
        raise ConfigError(f"{path} has no [[case]].", hint="See docs/regression-renders.md for an example.")
    names = [case.name.lower() for case in table.case]  # some file systems don't tell cases apart
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path} has two cases named {name!r}.", hint="Give each its own name.")
    root = path.parent
    return Suite(path, root / table.baselines, tuple(_case(path, case) for case in table.case))


def _case(path: Path, table: _CaseTable) -> Case:
    if (table.input is None) == (table.prompt is None):
        raise ConfigError(
            f"{path}: case {table.name} needs an input or a prompt, one of the two.",
            hint='For example: input = "photo.png".',
        )
    image = path.parent / table.input if table.input is not None else None
    if image is not None and not image.is_file():
        raise ConfigError(
            f"{path}: case {table.name}: there is no {image}.", hint="Paths are relative to the suite's file."
        )
    return Case(table.name, image, table.prompt, _config(path, table), table.exact)


def _config(path: Path, table: _CaseTable) -> Config:
    named = table.config
    beside = path.parent / named if named is not None else None
    config = Config.load(beside if beside is not None and beside.is_file() else named)
    try:
        for name, value in table.set.items():
            given = parse_set(f"{name}={value}") if isinstance(value, str) else _setting(name, value)
            config = config.with_layer(given, f"case {table.name}")
        # The comparison needs pixels as they were made.
        settings = config.with_layer({"generate": {"seed": table.seed}}, f"case {table.name}")
        only = {"run": {"format": "png", "strict": False, "on_finish": ""}}
        if table.prompt is not None:
            only |= {"generate": {"count": 1}}
            only["run"] |= {"generate": True}
        return settings.with_layer(only, "regress")
    except ConfigError as error:
        raise ConfigError(f"{path}: case {table.name}: {error.message}", hint=error.hint) from error


def _setting(name: str, value: Any) -> dict[str, dict[str, Any]]:
    section, dot, key = name.partition(".")
    if not dot:
        raise ConfigError(f"{name!r} is no section.key.", hint='For example: "hires.denoise" = 0.3')
    return {section: {key: value}}
