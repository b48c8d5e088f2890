"""Fixtures of the fault tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batches import Workplace, workplace


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """An empty input folder, an output folder still to be made, and the program."""
    return workplace(tmp_path, capsys, monkeypatch)
