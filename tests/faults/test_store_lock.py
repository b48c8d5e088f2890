"""The lock of a run in an object store: one run at a time, and a dead one's is taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.batches import Workplace, draw
from tests.stores import hasty as hasty  # for every test here
from tests.stores import listed, machine, published, put, stored
from tests.stores import store as store
from tilehires.batch import object_lock, objects
from tilehires.batch.runner import run
from tilehires.batch.workspace import Workspace
from tilehires.errors import ExitCode, LockedError, RunError


def test_a_living_run_is_left_alone_and_a_dead_ones_lock_is_taken(place: Workplace, store: str) -> None:
    draw(place.input / "a.png", 12, 8)
    fs, root = fsspec.core.url_to_fs(store)
    with object_lock.ObjectLock(objects.Objects(store), "other").held(lambda text: None):
        with pytest.raises(LockedError, match="process") as error:
            run(machine(place.root / "one"), place.input, store)
        assert error.value.exit_code == ExitCode.LOCKED and not stored(store)
        left = fs.cat_file(f"{root}/{object_lock.NAME}")
    assert not fs.exists(f"{root}/{object_lock.NAME}")
    fs.pipe_file(f"{root}/{object_lock.NAME}", left)
    assert run(machine(place.root / "one"), place.input, store).done == 1
    assert not fs.exists(f"{root}/{object_lock.NAME}")


def test_ctrl_c_lets_go_of_the_lock(tmp_path: Path, store: str) -> None:
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path / "half", url=store).locked():
        with pytest.raises(LockedError, match=f"works on {store}"), Workspace(tmp_path / "half", url=store).locked():
            pass
        raise KeyboardInterrupt
    assert not listed(store)


def test_this_halfs_own_lock_is_taken_at_once(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "PATIENCE", 1000)
    with Workspace(tmp_path / "half", url=store).locked():
        body = listed(store)[object_lock.NAME]
    put(f"{store}/{object_lock.NAME}", body)
    with Workspace(tmp_path / "half", url=store).locked():
        assert json.loads(listed(store)[object_lock.NAME])["token"] != json.loads(body)["token"]


def test_of_two_that_take_a_dead_lock_over_one_goes_on(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{store}/{object_lock.NAME}", b"{}")
    there, notes = objects.Objects(store), list[str]()
    there.sure = False

    def other_is_later(seconds: float) -> None:
        if seconds == object_lock.SETTLE:
            there.write(object_lock.NAME, b'{"token": "another", "host": "h", "pid": 1}')

    monkeypatch.setattr(object_lock.time, "sleep", other_is_later)
    with pytest.raises(LockedError, match="process 1 on h"), object_lock.ObjectLock(there, "half").held(notes.append):
        pass
    assert len(notes) == 2 and b"another" in listed(store)[object_lock.NAME], "the other's lock stays"


def test_a_run_whose_lock_was_taken_stops(tmp_path: Path, store: str) -> None:
    with pytest.raises(RunError, match="taken over"), (workspace := Workspace(tmp_path / "half", url=store)).locked():
        put(f"{store}/{object_lock.NAME}", b'{"token": "another"}')
        published(workspace, b"pixels")
    assert not stored(store) and b"another" in listed(store)[object_lock.NAME]


@pytest.mark.parametrize("answers", [TypeError, OSError, FileExistsError])
def test_a_lock_that_is_there_is_never_made_again(store: str, answers: type[Exception]) -> None:
    """Drivers say in several ways that an object can't be created, or that they don't know how."""

    def refuse(self: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise answers
        real(self, path, value)

    real, there = MemoryFileSystem.pipe_file, objects.Objects(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", refuse)
        assert there.create("free", b"mine") is (answers is not FileExistsError)
        there.write("taken", b"another's")
        assert not there.create("taken", b"mine")
    assert there.read("taken") == b"another's"
