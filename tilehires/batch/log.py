"""The run's log: one JSON object per line in `.tilehires/runs/<time>.jsonl`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

from tilehires.files import writing


class RunLog:
    """Events of one run, written as they happen, so that a killed run leaves what it knew."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}.jsonl"
        with writing(self._path):
            self._stream: TextIO = self._path.open("a", encoding="utf-8")

    def event(self, what: str, /, **facts: Any) -> None:
        """Write one event: its name, the time, and plain JSON facts. Raises RunError when the disk is full."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **facts}
        with writing(self._path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._stream.close()
