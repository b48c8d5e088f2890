"""The beacon of a run into an object store: what its workers look at where no folder is shared."""

from __future__ import annotations

import contextlib
import threading
from typing import Any
from uuid import uuid4

from tilehires.batch.mirror import BEACON
from tilehires.batch.objects import Objects
from tilehires.errors import RunError

EVERY = 1.0
"""Seconds between two looks into the store."""


class StoreBeacon:
    """An object with the methods of a path that a beacon needs. Only its address is sent to another process."""

    def __init__(self, url: str, name: str = "") -> None:
        self._url, self._name = url, name or f"{BEACON}{uuid4().hex}"
        self._objects: Objects | None = None
        self._watching: threading.Thread | None = None
        self._gone = False

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreBeacon, (self._url, self._name)

    def touch(self) -> None:
        """Light it. Raises RunError when the store can't be used, as `exists`."""
        self._there().write(self._name, b"going")

    def exists(self) -> bool:
        return self._there().tag(self._name) is not None

    def unlink(self, missing_ok: bool = True) -> None:
        """Put it out. Out of reach, it stays: then the workers can't put anything either, and the driver ends them."""
        with contextlib.suppress(RunError):
            self._there().delete(self._name)

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError once it was seen to be out. A thread looks, so that this never waits for a network."""
        if self._watching is None:
            self._watching = threading.Thread(target=self._watch, name="tilehires-beacon", daemon=True)
            self._watching.start()
        if self._gone:
            raise FileNotFoundError(f"{self._url}/{self._name}")
        return b""

    def _watch(self) -> None:
        pause = threading.Event()
        while not self._gone:
            with contextlib.suppress(RunError):  # out of reach for now: what is put next says so
                self._gone = not self.exists()
            pause.wait(EVERY)

    def _there(self) -> Objects:
        if self._objects is None:
            self._objects = Objects(self._url)
        return self._objects
