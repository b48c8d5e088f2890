"""Images in a run that overlap: a write that waits until the next image is computed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tilehires.batch import final
from tilehires.stages.redenoise import PassStage

LONG = 60  # seconds: only a fault waits so long


def written_late(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """From now on an image is written once the second one is computed. The threads that compute."""
    real_write, real_run, computing = final.write, PassStage.run, threading.Event()

    def write(path: Path, *rest: Any, **named: Any) -> Any:
        assert computing.wait(LONG), "nothing was computed meanwhile"
        return real_write(path, *rest, **named)

    def compute(stage: PassStage, *rest: Any) -> Any:
        seen.append(threading.current_thread())
        if len(seen) == 2:
            computing.set()
        return real_run(stage, *rest)

    seen: list[threading.Thread] = []
    monkeypatch.setattr(final, "write", write)
    monkeypatch.setattr(PassStage, "run", compute)
    return seen
