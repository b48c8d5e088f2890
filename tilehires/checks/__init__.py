"""Artifact checks: small pure functions that compare an output with the image that went in.

A check is found by name through the entry point group "tilehires.checks"; the built-in ones come the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.errors import ConfigError
from tilehires.geometry import Box

__all__ = ["Check", "Finding", "check", "names", "require"]


class Check(Protocol):
    """Compare `output` with `input`: float32 HWC RGB in [0, 1], sizes in one ratio. An empty list: nothing found."""

    def __call__(self, output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None) -> list[Finding]: ...


@cache
def _installed() -> Mapping[str, EntryPoint]:
    # Kept: reading the metadata of every installed package takes longer than the checks of a small image.
    return {entry.name: entry for entry in entry_points(group="tilehires.checks")}


def names() -> tuple[str, ...]:
    """The names of all installed checks, sorted."""
    return tuple(sorted(_installed()))


def require(wanted: Sequence[str]) -> None:
    """Raise ConfigError for a name that no installed check has."""
    unknown = [name for name in wanted if name not in _installed()]
    if unknown:
        raise ConfigError(f"There is no check named {unknown[0]!r}.", hint=f"The checks are: {', '.join(names())}.")


def check(
    output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None, *, only: Sequence[str] = ()
) -> list[Finding]:
    """Run the installed checks in the order of their names.

    `tiles`: the boxes of the tiled passes in output pixels, where known. `only`: names of the checks to run, empty for all.
    Raises ConfigError for a name that no installed check has.
    """
    require(only)
    chosen = [_installed()[name].load() for name in names() if not only or name in only]
    return [finding for one in chosen for finding in one(output, input, tiles)]
