"""What a run is told beside its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tilehires.callbacks import Callbacks
from tilehires.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from tilehires.batch.cluster import Cluster

STAGES = ("generate", "hires", "detail", "tiled", "check")


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What isn't a setting because it changes no image. `force`: stages to redo, with all that follow ("tiled": all).

    `redo`: a reviewer's file of marks; then only the images marked so are made, and the others' records stand.
    `until`: local time after which no stage begins any more. `cluster`: the workers that make the images, where it isn't
    this process (`tilehires.batch.cluster.joined`). `watch`: go on with what comes into the folder.
    `stopped`: whether the user has asked for the end; an error that comes after that is of its making.
    """

    force: tuple[str, ...] = ()
    redo: Path | None = None
    until: datetime | None = None
    command: str = ""
    cluster: Cluster | None = None
    watch: bool = False
    stopped: Callable[[], bool] = _never
    callbacks: Callbacks = Callbacks()
    """The caller's own functions. They may change images: their keys are in the fingerprints."""

    def late(self) -> bool:
        """Whether it is later than the run may last."""
        return self.until is not None and datetime.now() >= self.until

    def ask(self) -> None:
        """Before each stage: raise Interrupted where the user has asked for the end, or it is later than the run may last."""
        self.heed()
        if self.late():
            raise Interrupted("The time is up (--until).", hint="The same command goes on from here.")

    def heed(self) -> None:
        """Raise Interrupted where a library made nothing, or another error, of the user's Ctrl-C."""
        if self.stopped():
            raise Interrupted("The run was stopped.", hint="The same command goes on from here.")

    def check_watch(self, source: Path) -> None:
        """Raise ConfigError where `watch` can't go with the rest."""
        if self.watch and (source.is_file() or self.redo or self.cluster):
            raise ConfigError(
                "--watch takes a folder, and neither --redo nor --cluster.",
                hint="Name a folder; apply marks first, in a run of their own.",
            )

    def with_callbacks(self, callbacks: Callbacks | None) -> RunOptions:
        """The same with those. Raises ConfigError where they can't be called."""
        if callbacks is None:
            return self
        if self.cluster and callbacks != Callbacks():
            raise ConfigError(
                "Callbacks are called in the run's own process, not in a cluster's workers.",
                hint="Run without the cluster, or without callbacks.",
            )
        return replace(self, callbacks=callbacks)


def forced(names: Sequence[str]) -> frozenset[str]:
    """Stage names to redo. Raises ConfigError for one that no image can have."""
    for name in names:
        if name.partition(".")[0] not in STAGES:
            raise ConfigError(
                f"There is no stage {name!r}.", hint=f"The stages are {', '.join(STAGES)}; one tiled step is tiled.2."
            )
    first = {"tiled": ("tiled.1",), "detail": ("detail.hires", "detail.final")}
    return frozenset(names).union(*(first.get(name, ()) for name in names))
