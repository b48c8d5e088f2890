"""Outages of an object store, and kills at every change: the run after ends with the same images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.faults.test_resume import in_a_fork
from tests.stores import hasty as hasty  # for every test here
from tests.stores import inputs as inputs
from tests.stores import listed, machine, published, stored
from tests.stores import store as store
from tests.stores import whole as whole
from tilehires.batch import object_lock
from tilehires.batch.runner import run
from tilehires.batch.workspace import Workspace
from tilehires.errors import ExitCode, RunError
from tilehires.records import FileRecord, Record

CALLS = ("put_file", "pipe_file", "mv", "rm_file")
"""What changes a store."""


@pytest.mark.parametrize("fine", [1, 3, 6, 13])
def test_a_store_out_of_reach_for_a_while_ends_equal(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str, fine: int
) -> None:
    made = 0

    def broken(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made > fine:
                raise ConnectionError("https://store.example/?signature=SECRET is gone")
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_lock, "RENEW", 1000)
        for name in ("put_file", "pipe_file"):
            patch.setattr(MemoryFileSystem, name, broken(getattr(MemoryFileSystem, name)))
        with pytest.raises(RunError, match="can't be used") as error:
            run(machine(tmp_path / "one"), inputs, store)
    assert error.value.exit_code == ExitCode.USAGE and "SECRET" not in str(error.value) and error.value.hint
    assert run(machine(tmp_path / "one"), inputs, store).done == 3
    assert stored(store) == whole
    assert run(machine(tmp_path / "two"), inputs, store).cached == 3


def not_published(half: Path, url: str, data: bytes) -> FileRecord:
    """The same with its record, while the store takes no files."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("down")

    file = FileRecord("a.png", (1, 1), hashlib.sha256(data).hexdigest())
    with (workspace := Workspace(half, url=url)).locked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", refuse)
        with pytest.raises(RunError, match="ConnectionError: down"):
            published(workspace, data)
        with pytest.raises(RunError):
            workspace.write_record(Record("a.png", file, file, "done"))
    return file


def test_what_a_failing_store_didnt_take_is_put_first_by_the_next_run(tmp_path: Path, store: str) -> None:
    file = not_published(tmp_path / "half", store, b"pixels")
    assert not stored(store)
    for half in ("half", "another"):
        with (workspace := Workspace(tmp_path / half, url=store)).locked():
            assert stored(store) == {"a.png": b"pixels"} and workspace.stands(file)
            assert (record := workspace.record("a.png")) and record.output == file


def test_what_was_not_put_gives_way_to_what_another_machine_made_since(tmp_path: Path, store: str) -> None:
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        published(workspace, b"first")
    not_published(tmp_path / "half", store, b"older")
    assert stored(store) == {"a.png": b"first"}
    with (workspace := Workspace(tmp_path / "another", url=store)).locked():
        file = published(workspace, b"newer")
        workspace.write_record(Record("a.png", file, file, "done"))
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        assert stored(store) == {"a.png": b"newer"} and workspace.stands(file)
        assert (record := workspace.record("a.png")) and record.output == file


def test_a_short_outage_goes_unnoticed(tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str) -> None:
    real, tried = MemoryFileSystem.put_file, Counter[str]()

    def at_the_third_try(self: Any, file: str, path: str, **named: Any) -> Any:
        tried[path] += 1
        if tried[path] % 3:
            raise TimeoutError
        return real(self, file, path, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", at_the_third_try)
        assert run(machine(tmp_path / "one"), inputs, store).done == 3
    assert stored(store) == whole and min(tried.values()) == 3


@contextmanager
def dying(end_at: int) -> Iterator[list[str]]:
    """The changes that are made to a store in a folder. The process dies at one of them, as a kill does."""
    seen: list[str] = []

    def around(name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(seen) == end_at:
                os._exit(9)
            seen.append(name)
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_lock, "RENEW", 1000)
        for name in CALLS:
            patch.setattr(LocalFileSystem, name, around(name, getattr(LocalFileSystem, name)))
        yield seen


def made(half: Path, url: str, data: bytes) -> None:
    """What a run does with an image whose pixels are there."""
    with (workspace := Workspace(half, url=url)).locked():
        file = FileRecord("sub/a.png", (1, 1), hashlib.sha256(data).hexdigest())
        record = workspace.record("sub/a.png")
        if not (record and record.output == file and workspace.stands(file)):
            workspace.check_ours(file.path)
            (workspace.staging / "a").write_bytes(data)
            workspace.publish(workspace.staging / "a", file.path)
            workspace.write_record(Record("sub/a.png", file, file, "done"))


@pytest.mark.parametrize("older", [b"", b"older"], ids=["the first", "in place of another"])
def test_killed_at_every_change_it_is_ours_here_and_elsewhere(
    tmp_path: Path, older: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "PATIENCE", 0.05)

    def begun(name: str) -> str:
        url = f"file://{tmp_path}/{name}/store"
        if older:
            made(tmp_path / name / "half", url, older)
        return url

    url = begun("whole")
    with dying(-1) as changes:
        made(tmp_path / "whole" / "half", url, b"new")
    record = {name: data for name, data in listed(url).items() if "/records/" in name}
    assert len(changes) >= 9 and changes.count("mv") >= 4, f"{changes}: the patches no longer see them"
    for number in range(len(changes)):
        place, url = tmp_path / str(number), begun(str(number))

        def die(number: int = number, half: Path = place / "half", url: str = url) -> None:
            with dying(number):
                made(half, url, b"new")

        assert in_a_fork(die) == 9, f"to be killed at change {number}"
        assert {data for name, data in stored(url).items() if "tmp" not in name} <= {older, b"new"}, "half a file"
        shutil.copytree(place, tmp_path / f"{number} again")
        for there, half in ((url, "half"), (f"file://{tmp_path}/{number} again/store", "another")):
            where = f"killed at change {number} of {len(changes)}, continued in {half}"
            made(place / half, there, b"new")
            assert stored(there) == {"sub/a.png": b"new"}, where
            left = listed(there)
            assert record.items() <= left.items() and len(left) == 3, f"{sorted(left)}, {where}"


def test_a_killed_run_goes_on_elsewhere_to_the_same_bytes(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes]
) -> None:
    def changes(name: str, end_at: int = -1) -> int:
        with dying(end_at) as seen:
            run(machine(tmp_path / f"half {name}"), inputs, f"file://{tmp_path}/{name}")
        return len(seen)

    total = changes("whole")
    for number in (total // 5, total // 2):
        url = f"file://{tmp_path}/{number}"
        assert in_a_fork(lambda number=number: changes(str(number), number)) == 9
        assert run(machine(tmp_path / "another"), inputs, url).exit_code == ExitCode.OK
        assert stored(url) == whole
        assert not [name for name in listed(url) if "tmp" in name or "lock" in name]
