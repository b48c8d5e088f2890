"""What a run shows while it works: two bars on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tilehires.cli.streams import one_line
from tilehires.progress import BatchProgress, SilentBatch

if TYPE_CHECKING:
    from tqdm import tqdm


@contextlib.contextmanager
def progress_for(*, quiet: bool, verbose: bool) -> Iterator[BatchProgress]:
    """Bars where stderr is a terminal, plain lines where it isn't, nothing under `quiet`. Bars get closed."""
    if quiet:
        yield SilentBatch()
    elif sys.stderr.isatty():
        bars = Bars(verbose=verbose)
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield Lines(verbose=verbose)


class Lines(SilentBatch):
    """Notes as they come, and with `verbose` a line per image: what belongs into a log file."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._images = self._number = 0

    def begin_batch(self, images: int) -> None:
        self._images, self._number = images, 0

    def note(self, message: str) -> None:
        click.echo(one_line(message), err=True)

    def end_image(self, name: str, status: str) -> None:
        self._number += 1
        if self._verbose:
            self.note(f"[{self._number}/{self._images}] {name}: {status}")


class Bars:
    """A bar for the batch, with the time left, and one below it for the work at hand."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._batch: tqdm[Any] | None = None
        self._work: tqdm[Any] | None = None

    def begin_batch(self, images: int) -> None:
        self._batch = self._bar(images, position=0, unit="image", leave=True)

    def begin_image(self, name: str) -> None:
        if self._batch is not None:
            self._batch.set_description_str(one_line(name)[-40:])

    def begin(self, what: str, total: int) -> None:
        self._end_work()
        self._work = self._bar(total, position=1, unit="step", leave=False)
        self._work.set_description_str(what)

    def advance(self, steps: int = 1) -> None:
        if self._work is not None:
            self._work.update(steps)

    def note(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(one_line(message), file=sys.stderr)

    def end_image(self, name: str, status: str) -> None:
        self._end_work()
        if self._verbose:
            self.note(f"{name}: {status}")
        if self._batch is not None:
            self._batch.update()

    def end_batch(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal in order, however the run ended."""
        self._end_work()
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def _end_work(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None

    @staticmethod
    def _bar(total: int, *, position: int, unit: str, leave: bool) -> tqdm[Any]:
        from tqdm import tqdm

        return tqdm(total=total, position=position, unit=unit, leave=leave, file=sys.stderr, dynamic_ncols=True)
