"""A folder that is watched: what comes into it is taken when it has stopped growing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from tilehires.batch.discover import Discovery, Found
from tilehires.batch.finished import stamps_of
from tilehires.batch.hashes import stamp
from tilehires.errors import NothingToDoError, RunError

TICK = 1.0
"""Seconds after which `arrivals` comes back at the latest while it waits."""
EVERY = 30.0
"""Seconds between two looks at a folder that reports no change: network drives, and watchers that died, report none."""
SHARE = 10
"""A look may take one part in so many of the time: in a large folder, one that changes all the time is looked at less often."""


class Watch:
    """Looks at a folder again and again. A file has stopped growing when its size, its time and its inode, and those of
    the sidecars beside it, have stayed the same for `settle` seconds by a clock that never jumps.

    `look` finds what there is; `note` takes what the user should know.
    """

    def __init__(self, folder: Path, look: Callable[[], Discovery], settle: float, note: Callable[[str], None]) -> None:
        self._folder, self._look, self._settle, self._note = folder, look, settle, note
        self._found = Discovery(folder, (), ())
        self._seen: dict[str, tuple[Any, float]] = {}  # what isn't given as yet: how it stood, and since when
        self._given: dict[str, Any] = {}
        self._said = ""

    def arrivals(self) -> Generator[tuple[Discovery, tuple[Found, ...]]]:
        """For ever: all there is, and of that what has come or changed and stands still; often nothing.

        Raises RunError when the folder can't be read at first; later that is a note, and it is tried again.
        """
        self._found = self._looked(first=True)
        with contextlib.closing(_changes(self._folder, min(TICK, self._settle), self._note)) as changes:
            ended, took = time.monotonic(), 0.0
            self._note(f"Watching {self._folder} for more images; Ctrl-C ends it.")
            while True:
                yield self._found, self._ready()
                soon = bool(self._seen)
                while time.monotonic() - ended < max(self._settle / 2 if soon else EVERY, SHARE * took):
                    soon = next(changes) or soon
                    yield self._found, ()
                began = time.monotonic()
                self._found = self._looked()
                ended = time.monotonic()
                took = ended - began

    def stands(self, image: Found) -> bool:
        """Whether it is as it was when `arrivals` gave it; else it comes once more."""
        return self._given.get(image.id) == _stamps(image)

    def _looked(self, *, first: bool = False) -> Discovery:
        try:
            found = self._look()
        except NothingToDoError:
            found = Discovery(self._folder, (), ())
        except RunError as error:
            if first:
                raise
            if str(error) != self._said:
                self._said = str(error)
                self._note(f"{error.message} It is looked for again every {EVERY:g} s.")
            return self._found
        self._said = ""
        return found

    def _ready(self) -> tuple[Found, ...]:
        now, before = time.monotonic(), self._seen
        ready: list[Found] = []
        self._seen = {}
        for image in self._found.found:
            as_it_is = _stamps(image)
            if not stamp(image.path) or self._given.get(image.id) == as_it_is:
                continue  # gone since the look, or known
            self._given.pop(image.id, None)
            was, since = before.get(image.id, (None, now))
            since = since if was == as_it_is else now
            if now - since >= self._settle:
                self._given[image.id] = as_it_is
                ready.append(image)
            else:
                self._seen[image.id] = as_it_is, since
        return tuple(ready)


def _stamps(image: Found) -> Any:
    return [image.output, *stamps_of(image)]


def _changes(folder: Path, seconds: float, note: Callable[[str], None]) -> Generator[bool]:
    """For ever: whether something happened in the folder, after `seconds` at the latest."""
    from watchfiles import watch

    try:
        for change in watch(
            folder,
            watch_filter=None,
            rust_timeout=max(round(seconds * 1000), 50),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            yield bool(change)
    except (OSError, RuntimeError) as error:  # too many watches, a drive without them, a watcher that died
        note(f"{folder} can't be watched ({error}). It is looked at every {EVERY:g} s instead.")
    while True:
        time.sleep(seconds)
        yield False
