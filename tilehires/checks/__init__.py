"""Artifact checks: small pure functions that compare an output with the image that went in.

A check is found by name through the entry point group "tilehires.checks"; the built-in ones come the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.errors import ConfigError
from tilehires.geometry import Box

__all__ = ["Check", "Finding", "check", "names", "require"]


class Check(Protocol):
    """Compare `output` with `input`: float32 HWC RGB in [0, 1], sizes in one ratio. An empty list: nothing found."""

    def __call__(self, output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None) -> list[Finding]: ...


def names() -> tuple[str, ...]:
    """The names of all installed checks, sorted."""
    return tuple(sorted(entry.name for entry in entry_points(group="tilehires.checks")))


def require(wanted: Sequence[str]) -> None:
    """Raise ConfigError for a name that no installed check has."""
    known = names()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"There is no check named {unknown[0]!r}.", hint=f"The checks are: {', '.join(known)}.")


def check(
    output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None = None, *, only: Sequence[str] = ()
) -> list[Finding]:
    """Run the installed checks in the order of their names.

    `tiles`: the boxes of the tiled passes in output pixels, where known. `only`: names of the checks to run, empty for all.
    Raises ConfigError for a name that no installed check has.
    """
    require(only)
    found = {entry.name: entry for entry in entry_points(group="tilehires.checks")}
    chosen = [found[name].load() for name in sorted(found) if not only or name in only]
    return [finding for one in chosen for finding in one(output, input, tiles)]
