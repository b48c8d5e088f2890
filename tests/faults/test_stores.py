"""A run into an object store: the images of a folder's run, from any machine, whatever changes there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.stores import drop, listed, machine, published, put, stored
from tests.stores import hasty as hasty  # for every test here
from tests.stores import inputs as inputs
from tests.stores import store as store
from tests.stores import whole as whole
from tilehires.batch import objects
from tilehires.batch.copies import keep_copy
from tilehires.batch.runner import RunOptions, run
from tilehires.batch.workspace import Workspace
from tilehires.checks import Finding
from tilehires.errors import ImageError
from tilehires.records import Record


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
