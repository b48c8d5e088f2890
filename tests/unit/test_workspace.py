"""Atomic writes, the memory of hashes, the lock, and the rule that nothing is overwritten that tilehires didn't make."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tilehires.batch.hashes import HashMemory
from tilehires.batch.workspace import Workspace
from tilehires.errors import ExitCode, ImageError, LockedError, RunError
from tilehires.files import append_line, atomic, read_lines, remove_leftovers, write_json
from tilehires.records import FileRecord, Record


def staged(workspace: Workspace, data: bytes) -> Path:
    path = workspace.staging / "output.png"
    path.write_bytes(data)
    return path


# Files


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), atomic(path) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_other_programs_may_read_what_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EROFS, "-o"),
        (errno.EACCES, "-o"),
        (errno.EFBIG, "-o"),
        (errno.EIO, "drive"),
        (errno.ESTALE, "drive"),
    ],
)
def test_what_would_meet_every_image_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError, match=words) as error:
        write_json(tmp_path / "a.json", {})
    assert error.value.exit_code == ExitCode.USAGE and error.value.hint
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError("encoder error -2")  # as Pillow's

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="encoder error"):
        write_json(tmp_path / "a.json", {})


def test_lines_around_a_damaged_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, ["a", 1])
    with path.open("ab") as stream:
        stream.write(b'["b", 2, "cut \xff off')
    append_line(path, ["caf\udce9", 3])
    assert list(read_lines(path)) == [["a", 1], ["caf\udce9", 3]]
    assert list(read_lines(tmp_path / "none")) == []


def test_leftovers_go_and_everything_else_stays(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".tilehires-tmp-123", "deep/.tilehires-tmp-9-output.png", "deep/photo.png", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".hidden", "photo.png"]


# Hashes


def test_a_hash_is_remembered_and_a_change_is_seen(tmp_path: Path) -> None:
    file, memory = tmp_path / "model", HashMemory(tmp_path / "hashes.jsonl")
    file.write_bytes(b"one")
    first = memory.sha256(file)
    assert first == hashlib.sha256(b"one").hexdigest()
    status = file.stat()
    # The same length, time and inode: it is trusted, which is what makes starting quick.
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert HashMemory(tmp_path / "hashes.jsonl").sha256(file) == first
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert HashMemory(tmp_path / "hashes.jsonl").sha256(file) == hashlib.sha256(b"two").hexdigest()


def test_a_hash_memory_of_nonsense_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"one")
    name = str(file.resolve())
    for line in ('5\n"text"\n[]\n[1,2,3]\n{"a":1,"b":2,"c":3}', f'["{name}", "stamp", "digest"]', "[" * 5000):
        (tmp_path / "hashes.jsonl").write_text(line, encoding="utf-8")
        assert HashMemory(tmp_path / "hashes.jsonl").sha256(file) == hashlib.sha256(b"one").hexdigest()


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    HashMemory(None).sha256(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_memory_that_isnt_written_hands_over_what_it_learned(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    kept = HashMemory(tmp_path / "hashes.jsonl")
    worker = HashMemory(tmp_path / "hashes.jsonl", writes=False)
    digest = worker.sha256(tmp_path / "a")
    assert not (tmp_path / "hashes.jsonl").exists()
    kept.learn(learned := worker.learned())
    assert len(learned) == 1 and not worker.learned()
    assert f'"{digest}"' in (tmp_path / "hashes.jsonl").read_text(encoding="utf-8")
    # What it handed over is of the file as it was then.
    (tmp_path / "a").write_bytes(b"other")
    assert kept.sha256(tmp_path / "a") == hashlib.sha256(b"other").hexdigest()


# The workspace


def test_the_lock_is_held_once_and_let_go(tmp_path: Path) -> None:
    with Workspace(tmp_path).locked():
        with pytest.raises(LockedError) as error, Workspace(tmp_path).locked():
            pytest.fail("two runs in one folder")
        assert error.value.exit_code == ExitCode.LOCKED and "-o" in error.value.hint
    with pytest.raises(ZeroDivisionError), Workspace(tmp_path).locked():
        raise ZeroDivisionError
    with Workspace(tmp_path).locked():
        pass


def test_beginning_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    left = [workspace.staging / "output.png", workspace.cache / "ab" / ".tilehires-tmp-1", workspace.report / "thumbs"]
    left[2] = left[2] / ".tilehires-tmp-2"
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    with workspace.locked():
        assert not any(path.exists() for path in left)


def test_what_we_made_is_replaced_and_known_after_a_restart(tmp_path: Path) -> None:
    with (workspace := Workspace(tmp_path)).locked():
        digest = workspace.publish(staged(workspace, b"first"), "sub/a.png")
    assert digest == hashlib.sha256(b"first").hexdigest() and (tmp_path / "sub/a.png").read_bytes() == b"first"
    with (workspace := Workspace(tmp_path)).locked():
        workspace.check_ours("sub/a.png")
        workspace.publish(staged(workspace, b"second"), "sub/a.png")
    assert (tmp_path / "sub/a.png").read_bytes() == b"second"


def test_what_others_made_or_changed_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs.png").write_bytes(b"theirs")
    with (workspace := Workspace(tmp_path)).locked():
        workspace.publish(staged(workspace, b"ours"), "ours.png")
        (tmp_path / "ours.png").write_bytes(b"retouched")
        for name in ("theirs.png", "ours.png"):
            before = (tmp_path / name).read_bytes()
            with pytest.raises(ImageError, match="didn't make it") as error:
                workspace.publish(staged(workspace, b"new"), name)
            assert "-o" in error.value.hint and (tmp_path / name).read_bytes() == before


def test_our_bytes_under_another_name_are_not_ours(tmp_path: Path) -> None:
    with (workspace := Workspace(tmp_path)).locked():
        workspace.publish(staged(workspace, b"ours"), "a.png")
        (tmp_path / "b.png").write_bytes(b"ours")
        with pytest.raises(ImageError):
            workspace.check_ours("b.png")


def test_a_file_that_was_announced_but_not_moved_is_no_trouble(tmp_path: Path) -> None:
    """The ledger comes first: a kill in between leaves an entry without its file."""
    with (workspace := Workspace(tmp_path)).locked():
        path = staged(workspace, b"data")
        append_line(workspace.root / "outputs.jsonl", ["a.png", hashlib.sha256(b"data").hexdigest()])
        path.unlink()
    with (workspace := Workspace(tmp_path)).locked():
        workspace.check_ours("a.png")
        workspace.publish(staged(workspace, b"data"), "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"data"


def test_workers_publish_under_anothers_lock_and_know_each_others_files(tmp_path: Path) -> None:
    with (driver := Workspace(tmp_path)).locked():
        one, two = Workspace(tmp_path, "one"), Workspace(tmp_path, "two")
        with one.joined(), two.joined():
            assert one.staging != two.staging and one.staging.parent == driver.staging
            one.publish(staged(one, b"data"), "a.png")
            # `one` was killed before its record: `two` does the image anew, and knows the file though it began before.
            two.publish(staged(two, b"data"), "a.png")
            (tmp_path / "theirs.png").write_bytes(b"theirs")
            with pytest.raises(ImageError, match="didn't make it"):
                two.check_ours("theirs.png")
            (one.staging / "left.png").write_bytes(b"of one that died")
            assert not (driver.root / "outputs.jsonl").exists(), "a file has one writer"
        (driver.staging / "three").mkdir()
        driver.tidy()
        assert not list(driver.staging.iterdir())
        assert [path.name for path in driver.root.glob("outputs*")] == ["outputs.jsonl"]
        driver.check_ours("a.png")
    # A driver that was killed left a worker's ledger behind.
    append_line(driver.root / "outputs-four.jsonl", ["b.png", hashlib.sha256(b"b").hexdigest()])
    (tmp_path / "b.png").write_bytes(b"b")
    with (workspace := Workspace(tmp_path)).locked():
        workspace.check_ours("b.png")
        assert [path.name for path in workspace.root.glob("outputs*")] == ["outputs.jsonl"]


def record(name: str) -> Record:
    return Record(name, FileRecord(name, (1, 2), "ab"), None, "done")


def test_records_are_found_by_any_name(tmp_path: Path) -> None:
    names = ["a.png", "sub/a.png", "x" * 400 + ".png", "caf\udce9.png", "two\nlines.png", "../up.png"]
    workspace = Workspace(tmp_path)
    for name in names:
        workspace.write_record(record(name))
    assert all(workspace.record(name) == record(name) for name in names)
    assert workspace.record("never") is None
