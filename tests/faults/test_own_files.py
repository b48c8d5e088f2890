"""Files that tilehires keeps for itself: what stands in their way, or takes them away, is said, and is no bug."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.batches import FAST, Workplace, draw
from tilehires.batch.maker import Maker
from tilehires.errors import ExitCode

IN_THE_WAY = (".tilehires/hashes.jsonl", ".tilehires/finished.jsonl", ".tilehires/lock", ".tilehires/runs")
IN_THE_WAY += (".tilehires/cache", ".tilehires/staging", "report", "report/report.json", "report/thumbs")
IN_THE_WAY += ("report/index.html", "report/summary.json")


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_stands_in_the_way_of_our_files_is_named(place: Workplace, name: str) -> None:
    draw(place.input / "a.png", 8, 6)
    path = place.output / name
    path.parent.mkdir(parents=True)
    if path.suffix or path.name == "lock":
        path.mkdir()
        (path / "in it").touch()
    else:
        path.symlink_to("nowhere/at/all")
    ended = place.run(*FAST)
    assert ended.code == ExitCode.USAGE and "bug" not in ended.err, ended.err
    assert str(path) in ended.err and "in its way" in ended.err, ended.err


def test_an_output_folder_that_goes_midway_stops_the_run(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        draw(place.input / f"{number}.png", 8, 6, number)
    real, begun = Maker.begin, []

    def begin(*words: Any) -> Any:
        begun.append(words)
        if len(begun) == 2:
            shutil.rmtree(place.output)
        return real(*words)

    monkeypatch.setattr(Maker, "begin", begin)
    ended = place.run(*FAST, "--set", "run.overlap=false")
    assert ended.code == ExitCode.USAGE and len(begun) == 2, ended.out + ended.err
    assert str(place.output / ".tilehires") in ended.err and "whether the drive is still there" in ended.err


def test_marks_that_nest_too_deep_are_refused(place: Workplace) -> None:
    draw(place.input / "a.png", 8, 6)
    (place.output / ".tilehires").mkdir(parents=True)
    (place.output / ".tilehires" / "marks.json").write_text("[" * 200_000, encoding="utf-8")
    ended = place.run(*FAST)
    assert ended.code == ExitCode.USAGE and "marks.json can't be read" in ended.err


@pytest.mark.parametrize("name", ["hashes.jsonl", "outputs.jsonl", "finished.jsonl"])
def test_what_another_user_keeps_is_said(place: Workplace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A run as root, last week; taken as empty, the ledger would make all outputs look like strangers' files."""
    draw(place.input / "a.png", 8, 6)
    assert place.run(*FAST).code == ExitCode.OK
    real = Path.read_text

    def refuse(path: Path, *words: Any, **named: Any) -> str:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *words, **named)

    monkeypatch.setattr(Path, "read_text", refuse)
    ended = place.run(*FAST)
    assert ended.code == ExitCode.USAGE and f"{name} can't be read: Permission denied" in ended.err
    assert "another user" in ended.err
