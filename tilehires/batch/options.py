"""What a run is told beside its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tilehires.errors import ConfigError

if TYPE_CHECKING:
    from tilehires.batch.cluster import Cluster

STAGES = ("generate", "hires", "detail", "tiled", "check")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What isn't a setting because it changes no image. `force`: stages to redo, with all that follow ("tiled": all).

    `redo`: a reviewer's file of marks; then only the images marked so are made, and the others' records stand.
    `until`: local time after which no stage begins any more. `cluster`: the workers that make the images, where it isn't
    this process (`tilehires.batch.cluster.joined`). `watch`: go on with what comes into the folder.
    """

    force: tuple[str, ...] = ()
    redo: Path | None = None
    until: datetime | None = None
    command: str = ""
    cluster: Cluster | None = None
    watch: bool = False


def forced(names: Sequence[str]) -> frozenset[str]:
    """Stage names to redo. Raises ConfigError for one that no image can have."""
    for name in names:
        if name.partition(".")[0] not in STAGES:
            raise ConfigError(
                f"There is no stage {name!r}.", hint=f"The stages are {', '.join(STAGES)}; one tiled step is tiled.2."
            )
    first = {"tiled": ("tiled.1",), "detail": ("detail.hires", "detail.final")}
    return frozenset(names).union(*(first.get(name, ()) for name in names))
