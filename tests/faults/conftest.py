"""Fixtures of the fault tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batches import Workplace


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """An empty input folder, an output folder still to be made, and the process's hooks as they were."""
    (tmp_path / "in").mkdir()
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("sys.argv", ["tilehires"])
    return Workplace(tmp_path, capsys)
