"""The soak of benchmarks/soak.py in small: five kills of the whole process group, on stages without a model."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import SIGNALS, Soak
from tests.batches import FAST, draw
from tilehires import upscalers
from tilehires.batch.store import Store
from tilehires.batch.workspace import Workspace
from tilehires.stages import Stage, StageResult

KILLS = 5


@pytest.fixture
def soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Soak:
    known = entry_points(group=upscalers.GROUP)
    monkeypatch.setattr(upscalers, "entry_points", lambda group: known)  # half of such a run's time
    for number in range(2):
        draw(tmp_path / "in" / f"{number}.png", 12, 9, number)
    return Soak(tmp_path, tmp_path / "in", (*FAST, "--scale", "4", "--set", "run.decode_isolated=false"), seed=3)


def test_killed_and_continued_all_promises_are_kept(soak: Soak) -> None:
    tally = soak.all(KILLS)
    assert not tally.broken, f"{tally.broken} {soak.log.read_text(encoding='utf-8')}"
    assert {name for _, name in tally.kills} == {one.name for one in SIGNALS}
    assert tally.killed == KILLS and tally.runs and tally.looks > KILLS


def test_half_a_file_under_its_final_name_is_seen(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Workspace.publish

    def slowly(self: Workspace, staged: Path, name: str) -> str:
        body = staged.read_bytes()
        digest = publish(self, staged, name)
        with (self.output / name).open("wb") as stream:
            time.sleep(0.5)
            stream.write(body)
        return digest

    monkeypatch.setattr(Workspace, "publish", slowly)
    monkeypatch.setattr(soak, "_spans", {"hires": 0.0})  # killed in its first stage: both files are still to come
    broken = soak.all(1).broken
    assert "a wrong file under a final name" in broken, broken


def test_another_report_is_seen(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Store.put

    def different(self: Store, key: str, stage: Stage, result: StageResult, environment: Mapping[str, Any]) -> Any:
        return put(self, key, stage, replace(result, facts={**result.facts, "process": os.getpid()}), environment)

    monkeypatch.setattr(Store, "put", different)
    broken = soak.all(1).broken
    assert set(broken) == {"another report"}, broken
