"""2,000 mutated files through everything that strangers' bytes reach; benchmarks/fuzz.py runs as many as asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests import fuzzing
from tests.fuzz_targets import TARGETS
from tests.fuzzing import Places, Target, attempt, cases, data
from tilehires.images import Isolated

CASES = 2000


def test_no_case_is_a_bug_hangs_or_kills_and_no_file_is_left(tmp_path: Path) -> None:
    ends: dict[str, Counter[str]] = {target.name: Counter() for target in TARGETS}
    folder = tmp_path / "only" / "here"
    folder.mkdir(parents=True)
    with Isolated(20) as decoder:
        for target, number in cases(TARGETS, CASES):
            ended, _ = attempt(target, number, Places(folder, decoder))
            ends[target.name][ended] += 1
    assert sum(sum(one.values()) for one in ends.values()) == CASES
    assert all(one["read"] for one in ends.values()), f"mutated beyond all reading, which tests little: {ends}"
    assert sum(one["died"] for one in ends.values()) == 0, ends
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["here"]
    assert {path.name for path in folder.iterdir()} == {"a.png", "photo.toml", "photo.txt", "model.safetensors", "out"}


def test_a_case_is_always_the_same_bytes() -> None:
    for target in TARGETS:
        assert data(target, 7) == data(target, 7) != data(target, 8)


def test_a_bug_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(body: bytes, places: Places) -> str:
        return {}[body[:1]]

    def slow(body: bytes, places: Places) -> str:
        return "read"

    with Isolated() as decoder:
        places = Places(tmp_path, decoder)
        with pytest.raises(AssertionError, match="bad, case 3: KeyError"):
            attempt(Target("bad", lambda: (b"abc",), fails), 3, places)
        monkeypatch.setattr(fuzzing, "SLOWEST", 0.0)
        with pytest.raises(AssertionError, match="slow, case 0"):
            attempt(Target("slow", lambda: (b"abc",), slow), 0, places)
