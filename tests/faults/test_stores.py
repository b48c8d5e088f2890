"""A run into an object store: the images of a folder's run, from any machine, whatever fails or changes there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.batches import FAST, Workplace, draw, outputs, refused
from tests.faults.test_resume import in_a_fork
from tests.stores import drop, listed, machine, put, stored
from tilehires import upscalers
from tilehires.batch import object_lock, objects
from tilehires.batch.address import Place, place_of
from tilehires.batch.copies import keep_copy
from tilehires.batch.runner import RunOptions, run
from tilehires.batch.workspace import Workspace
from tilehires.checks import Finding
from tilehires.errors import ConfigError, ExitCode, ImageError, LockedError, RunError
from tilehires.records import FileRecord, Record
from tilehires.report import load

CALLS = ("put_file", "pipe_file", "mv", "rm_file")
"""What changes a store."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW", 0.05), ("PATIENCE", 0.3), ("LOOK", 0.05), ("SETTLE", 0.0)):
        monkeypatch.setattr(object_lock, name, seconds)
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.0))
    known = entry_points(group=upscalers.GROUP)
    monkeypatch.setattr(upscalers, "entry_points", lambda group: known)  # half of such a run's time


@pytest.fixture
def store() -> Iterator[str]:
    """The address of an empty store in this process's memory."""
    bucket = uuid4().hex
    yield f"memory://{bucket}/results"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{bucket}"):
        fs.rm(f"/{bucket}", recursive=True)


@contextmanager
def counted(kind: type, *names: str) -> Iterator[Counter[str]]:
    """How often a file system is asked what."""
    calls: Counter[str] = Counter()

    def around(name: str, real: Any) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            there = next(path for path in arguments if "/results" in path)
            calls[f"{name} {there.rpartition('/results/')[2].partition('/')[0]}"] += 1
            return real(self, *arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(kind, name, around(name, getattr(kind, name)))
        yield calls


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("a.png", "b.png", "d/d [1].png")):
        draw(folder / name, 12, 8, seed)
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run into a folder makes of them."""
    folder = tmp_path_factory.mktemp("plain")
    assert run(machine(folder), inputs, folder / "out").done == 3
    return outputs(folder / "out")


# From machine to machine


def test_any_machine_goes_on_and_only_results_lie_in_the_store(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(machine(one, limit=1), inputs, store).done == 1
    with counted(MemoryFileSystem, "get_file") as fetched:
        there = run(machine(two), inputs, store)
    assert (there.done, there.cached) == (3, 1)
    assert fetched == {"get_file report": 1}, "a preview, and no output"
    assert run(machine(one), inputs, store).cached == 3
    assert stored(store) == whole
    kinds = Counter("/".join(name.split("/")[:2]) for name in listed(store) if name not in whole)
    state = {".tilehires/outputs": 3, ".tilehires/records": 3, "report/thumbs": 3}
    assert kinds == state | {"report/index.html": 1, "report/report.json": 1, "report/summary.json": 1}
    assert run(machine(tmp_path / "three", limit=1), inputs, store).cached == 1
    assert sum(name.startswith("report/thumbs/") for name in listed(store)) == 3, "of those that weren't reached too"
    assert run(machine(one), inputs, store).cached == 3
    report = json.loads(listed(store)["report/report.json"])
    assert [image["output"]["path"] for image in report["images"]] == list(whole)
    assert there.report == f"{store}/report/index.html"
    page = listed(store)["report/index.html"].decode()
    assert "gone: moved or deleted" not in page and str(two) not in page


def test_a_second_run_reads_no_object_and_puts_only_its_report(
    tmp_path: Path, inputs: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(machine(tmp_path / "one"), inputs, store)
    monkeypatch.setattr(objects.Objects, "sha256", None)
    with counted(MemoryFileSystem, "cat_file", "get_file", "put_file") as calls:
        assert run(machine(tmp_path / "one"), inputs, store).cached == 3
    assert set(calls) == {"cat_file .tilehires", "put_file report"}
    with (
        counted(MemoryFileSystem, "cat_file") as calls,
        Workspace(next((tmp_path / "one").iterdir()), url=store).locked(),
    ):
        pass
    assert calls["cat_file .tilehires"] <= 4, "more than the lock was read"


def test_what_was_deleted_there_is_made_again_and_what_was_changed_stays(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str
) -> None:
    run(machine(tmp_path / "one"), inputs, store)
    put(f"{store}/a.png", b"another's")
    drop(f"{store}/b.png")
    for half in ("one", "two"):
        again = run(machine(tmp_path / half), inputs, store)
        assert (again.done, again.failed) == (2, 1) and "didn't make it" in "\n".join(again.lines())
        assert stored(store) == whole | {"a.png": b"another's"}
    drop(f"{store}/a.png")
    assert run(machine(tmp_path / "two"), inputs, store).done == 3
    assert stored(store) == whole


def test_a_file_that_was_there_first_is_never_replaced(tmp_path: Path, inputs: Path, store: str) -> None:
    put(f"{store}/b.png", b"first")
    ended = run(machine(tmp_path / "one"), inputs, store)
    assert (ended.done, ended.failed) == (2, 1) and stored(store)["b.png"] == b"first"


def test_what_comes_while_a_run_works_is_seen_before_it_is_replaced(tmp_path: Path, store: str) -> None:
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        put(f"{store}/a.png", b"another's")
        with pytest.raises(ImageError, match="didn't make it"):
            published(workspace, b"pixels")
        assert stored(store) == {"a.png": b"another's"}
        drop(f"{store}/a.png")
        with (worker := Workspace(tmp_path / "elsewhere", "token-1", store)).joined():
            published(worker, b"a worker's that dies before it has answered")
        assert workspace.stands(published(workspace, b"pixels"))
    assert stored(store) == {"a.png": b"pixels"}


def test_a_record_that_was_removed_there_goes_here(tmp_path: Path, store: str) -> None:
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        file = published(workspace, b"pixels")
        workspace.write_record(Record("a.png", file, file, "done"))
    [record] = [name for name in listed(store) if "/records/" in name]
    drop(f"{store}/{record}")
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        assert workspace.record("a.png") is None and workspace.stands(file)


def test_a_copied_store_is_known_by_its_bytes(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str
) -> None:
    run(machine(tmp_path / "one"), inputs, store)
    fs, root = fsspec.core.url_to_fs(store)
    for name in fs.find(root):
        fs.cp_file(name, f"{root}-copy/{name[len(root) + 1 :]}")
    assert run(machine(tmp_path / "two"), inputs, f"{store}-copy").cached == 3
    assert stored(f"{store}-copy") == whole


def test_a_discarded_image_moves_aside_there_and_stays_so_everywhere(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes], store: str
) -> None:
    done = run(machine(tmp_path / "one"), inputs, store)
    output = done.records[0].output
    assert output
    marks = tmp_path / "marks.toml"
    marks.write_text(f'[[mark]]\nid = "a.png"\nverdict = "discard"\nsha256 = "{output.sha256}"\n')
    run(machine(tmp_path / "two"), inputs, store, options=RunOptions(redo=marks))
    assert stored(store) == {"review/discarded/a.png": whole["a.png"], **{k: whole[k] for k in whole if k != "a.png"}}
    again = run(machine(tmp_path / "one"), inputs, store)
    assert (again.cached, again.skipped) == (2, 1)


def test_a_flagged_image_has_a_copy_there_until_it_is_flagged_no_more(tmp_path: Path, store: str) -> None:
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        file = published(workspace, b"pixels")
    flagged = Record("a.png", file, file, "done", findings=(Finding("soft", "warning", 1.0, 0.5, None, "soft"),))
    with (workspace := Workspace(tmp_path / "another", url=store)).locked():
        assert not keep_copy(flagged, "a.png", workspace)
        assert stored(store) == {"a.png": b"pixels", "review/flagged/a.png": b"pixels"}
    with (workspace := Workspace(tmp_path / "half", url=store)).locked():
        assert not keep_copy(replace(flagged, findings=()), "a.png", workspace)
        assert stored(store) == {"a.png": b"pixels"} and len(listed(store)) == 3, "the lock, and one note"


# The lock


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


# Faults


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


def published(workspace: Workspace, data: bytes) -> FileRecord:
    (workspace.staging / "a").write_bytes(data)
    return FileRecord("a.png", (1, 1), workspace.publish(workspace.staging / "a", "a.png"))


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


# Addresses


def test_what_is_an_address_and_where_its_half_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    for path in ("out", "C:/out", r"C:\out", "s3:/out", "./s3://out", "x://out"):
        assert place_of(path) == Place(Path(path))
    place = place_of("S3://Bucket/out/")
    assert place.url == "s3://Bucket/out" and place.folder.parent == tmp_path / "tilehires" / "stores"
    assert place == place_of("s3://Bucket/out") and place.folder != place_of("s3://Bucket/Out").folder
    assert place_of("s3://b/out", str(tmp_path / "here")).folder.parent == tmp_path / "here"
    assert place_of("file:///mnt/out").written[1] == Path("/mnt/out")
    assert place_of("s3://arn:aws:s3:us-east-1:1:accesspoint/name/out").url
    for address in ("s3://", "s3:///", "simplecache::s3://b/out", "s3://b/../out"):
        with pytest.raises(ConfigError):
            place_of(address)


def test_a_secret_in_an_address_is_refused_and_not_repeated(place: Workplace) -> None:
    draw(place.input / "a.png")
    for address in (
        *("s3://key:SECRET@bucket/results", "s3://key:SEC/SECRET@bucket/results", "az://container/results?sig=SECRET"),
        "sftp://me:SECRET@host:22/results",
    ):
        ended = place.run(*FAST, output=address)  # pyright: ignore[reportArgumentType]
        assert "SECRET" not in refused(ended, ExitCode.USAGE)


def test_an_address_that_became_a_path_is_told(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    monkeypatch.chdir(place.root)
    with pytest.raises(RunError, match="taken for a folder's path"):
        run(machine(place.root), place.input, Path("s3://bucket/results"))
    assert not (place.root / "s3:").exists()


def test_a_driver_that_isnt_there_and_a_kind_that_isnt_one(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.root / "cache"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    ended = place.run(*FAST, output="gs://bucket/results")  # pyright: ignore[reportArgumentType]
    assert "pip install gcsfs" in refused(ended, ExitCode.MISSING)
    ended = place.run(*FAST, output="nothing://bucket/results")  # pyright: ignore[reportArgumentType]
    assert "nothing://bucket/results" in refused(ended, ExitCode.USAGE)


def test_commands_that_need_a_folder_say_so(place: Workplace, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png", 12, 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.root / "cache"))
    for words in (
        ("report", store),
        ("check", store),
        ("calibrate", store),
        ("sweep", "a.png", "-o", store),
        ("run", store),
    ):
        ended = place.command(*words)
        assert ended.code == ExitCode.USAGE and "an object store can't stand here" in ended.err
    ended = place.command("plan", place.input, "-o", store, *FAST)
    assert ended.code == ExitCode.OK and "a.png -> a.png" in ended.out
    assert place.command("upscale", place.input, "-o", store, "--upscaler", "Lanczos").code == ExitCode.OK
    assert list(stored(store)) == ["a.png"]
    assert place.command("clean", store).out.startswith("Removed 0 files")
    ended = place.run(*FAST, output=f"file://{place.input}/out")  # pyright: ignore[reportArgumentType]
    assert "lies inside the input folder" in refused(ended, ExitCode.USAGE)


def test_the_summary_names_the_store(place: Workplace, store: str) -> None:
    draw(place.input / "a.png", 12, 8)
    summary = run(machine(place.root / "one"), place.input, store)
    told = json.loads(listed(store)["report/summary.json"])
    assert (told["output"], told["report"]) == (store, f"{store}/report/index.html")
    half = next((place.root / "one").iterdir())
    assert load(half)["run"]["input_folder"] == place.input.as_posix()
    assert replace(summary, report="").lines()[0] == "1 done, 0 flagged, 0 failed, 0 skipped."
