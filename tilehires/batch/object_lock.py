"""The lock of an object store: an object that its holder renews, because no store lets go of a dead process's lock.

Who finds one looks for a while whether it changes. Times are spans of one machine's own clock; clocks are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from tilehires.batch.objects import Objects
from tilehires.errors import LockedError, RunError

NAME = ".tilehires/lock.json"
RENEW = 10.0
"""Seconds between two renewals."""
PATIENCE = 30.0
"""Seconds without a renewal after which the holder is dead."""
LOOK = 2.0
SETTLE = 1.0
"""Seconds until another one's writing at the same moment would be seen."""


class ObjectLock:
    """One process's hold on a store. `half`: an id of this machine's half of it, which this process has locked already."""

    def __init__(self, objects: Objects, half: str) -> None:
        self._objects, self._half = objects, half
        self._token, self._count = uuid.uuid4().hex, 0
        self._ended = threading.Event()
        self._lost = False
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def held(self, note: Callable[[str], None]) -> Iterator[None]:
        """Raises LockedError when another run holds it, which may take PATIENCE to know. `note`: told of the wait."""
        self._take(note)
        renewing = threading.Thread(target=self._renew_all, name="tilehires-lock", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._ended.set()
            renewing.join()
            self._release()

    def verify(self) -> None:
        """Raise RunError when another run has taken the lock, or when that can't be known."""
        with self._turn:
            if not self._lost and not self._ours(self._read()):
                self._lost = True
        if self._lost:
            raise RunError(
                f"Another run has taken over {self._objects.url}, or removed its lock.",
                hint="This machine was out of reach for too long. The same command goes on once the other run has ended.",
            )

    def _take(self, note: Callable[[str], None]) -> None:
        sure = False
        while not sure:
            found = self._read()
            if found is None:
                sure = self._objects.create(NAME, self._body())
                continue
            if not self._own_half(found):
                note(
                    f"{self._objects.url} is locked by {_holder(found)}; looking for {PATIENCE:g} s whether it still works."
                )
                if not self._dead(found):
                    continue
                note("It doesn't: its lock is taken over.")
            self._objects.write(NAME, self._body())
            sure = True
        if not self._objects.sure:
            time.sleep(SETTLE)
        if not self._ours(now := self._read()):
            raise self._locked(now)

    def _dead(self, found: bytes) -> bool:
        """Whether the lock stays as it is; False when it went. Raises LockedError when it is renewed."""
        late = time.monotonic() + PATIENCE
        while time.monotonic() < late:
            time.sleep(LOOK)
            now = self._read()
            if now is None:
                return False
            if now != found:
                raise self._locked(now)
        return True

    def _locked(self, found: bytes | None) -> LockedError:
        return LockedError(
            f"Another tilehires works on {self._objects.url}: {_holder(found or b'')}.",
            hint="Wait for it to end, or choose another output with -o.",
        )

    def _renew_all(self) -> None:
        while not self._ended.wait(RENEW):
            try:
                self.verify()
                self._count += 1
                self._objects.write(NAME, self._body())
            except RunError:
                if self._lost:
                    return  # the run learns it when it next writes
                # Out of reach for now: the next renewal may get through.

    def _release(self) -> None:
        # What can't be reached is taken over by the next run.
        with contextlib.suppress(RunError):
            if not self._lost and self._ours(self._read()):
                self._objects.delete(NAME)

    def _read(self) -> bytes | None:
        try:
            return self._objects.read(NAME)
        except FileNotFoundError:
            return None

    def _body(self) -> bytes:
        return json.dumps(
            {
                "host": platform.node(),
                "pid": os.getpid(),
                "half": self._half,
                "token": self._token,
                "count": self._count,
            }
        ).encode()

    def _ours(self, found: bytes | None) -> bool:
        return found is not None and _field(found, "token") == self._token

    def _own_half(self, found: bytes) -> bool:
        """Whether it was taken by a process that worked in this half, which is locked: it is dead."""
        return (_field(found, "half"), _field(found, "host")) == (self._half, platform.node())


def _field(found: bytes, name: str) -> object:
    try:
        return json.loads(found)[name]
    except (ValueError, KeyError, TypeError):
        return None


def _holder(found: bytes) -> str:
    host, pid = _field(found, "host"), _field(found, "pid")
    return f"process {pid} on {host}" if host else "a run that can't be told"
