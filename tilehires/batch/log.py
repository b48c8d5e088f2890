"""The run's log: one JSON object per line in `.tilehires/runs/<time>.jsonl`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

from tilehires.files import ours
from tilehires.records import Record

KEPT = 50
"""Logs that stay, the newest: a scheduled run must not fill the disk by its logs alone."""


class RunLog:
    """Events of one run, written as they happen, so that a killed run leaves what it knew.

    A traceback that an earlier image left as well isn't written again: ten thousand that fail alike leave a line each.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}.jsonl"
        self._said: dict[str, str] = {}
        with ours(self._path):
            self._stream: TextIO = self._path.open("a", encoding="utf-8")
            for old in sorted(folder.glob("*.jsonl"))[:-KEPT]:
                if old != self._path:  # the clock may have been set back
                    old.unlink()

    def event(self, what: str, /, **facts: Any) -> None:
        """Write one event: its name, the time, and plain JSON facts. Raises RunError when the disk is full."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **facts}
        with ours(self._path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def image(self, record: Record, seconds: float) -> None:
        """An image's end."""
        self.event(
            "image",
            id=record.id,
            status=record.status,
            cached=record.cached,
            flagged=record.flagged,
            seconds=round(seconds, 3),
            error=record.error.message if record.error else None,
        )

    def traceback(self, image: str, text: str) -> None:
        """Write why an image failed: the text once, then the name of the image whose it was as well."""
        # By the places in the code: the message may name the image.
        first = self._said.setdefault("".join(line for line in text.splitlines() if line.startswith("  File ")), image)
        if first == image:
            self.event("traceback", id=image, text=text)
        else:
            self.event("traceback", id=image, same_as=first)

    def close(self) -> None:
        self._stream.close()
