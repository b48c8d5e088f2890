"""The image behind: its checks and its file are made in a thread while the next one has the models. Never more than one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from tilehires.batch.discover import Found
from tilehires.batch.maker import Made
from tilehires.batch.patience import time_limit
from tilehires.records import Record


@dataclass(frozen=True)
class Waiting:
    """An image that isn't settled yet, and the clock's time when it began."""

    image: Found
    began: float


class Behind:
    """One thread, with room for one image."""

    def __init__(self) -> None:
        self.waiting: Waiting | None = None
        self._thread = ThreadPoolExecutor(1, "tilehires-behind")
        self._future: Future[Made] = Future()
        self.ended = 0.0
        """The clock's time when the last work did."""

    def begin(self, waiting: Waiting, work: Callable[[], Made], limit: float) -> None:
        """Begin the work, which may take `limit` seconds (0: any). The one before it has been settled."""

        def limited() -> Made:
            try:
                with time_limit(limit, waiting.image.id):
                    return work()
            finally:
                self.ended = time.monotonic()

        self._future = self._thread.submit(limited)
        self.waiting = waiting

    def holds_new(self, records: Mapping[str, Record]) -> bool:
        """Whether one waits that has no record yet."""
        return self.waiting is not None and self.waiting.image.id not in records

    def result(self) -> Made:
        """What the work gave, or raises what it raised. Waits for it."""
        return self._future.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
