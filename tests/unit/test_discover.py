"""Folder rules: which files are images, under which names they are written, and why others are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tilehires.batch.discover import Discovery, discover
from tilehires.errors import RunError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def look(folder: Path, *, follow_links: bool = False) -> Discovery:
    return discover(folder, folder.parent / "out", suffix=".png", follow_links=follow_links)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def names(found: Discovery) -> dict[str, str]:
    return {one.id: one.output for one in found.found}


def reasons(found: Discovery) -> dict[str, str]:
    return {one.id: one.reason for one in found.skipped}


def test_subfolders_and_stems_are_mirrored(folder: Path) -> None:
    touch(folder, "a.png", "deep/er/b.JPG", "deep/c.webp")
    assert names(look(folder)) == {"a.png": "a.png", "deep/c.webp": "deep/c.png", "deep/er/b.JPG": "deep/er/b.png"}


def test_inputs_of_one_stem_keep_their_extensions(folder: Path) -> None:
    touch(folder, "photo.jpg", "photo.png", "other.png", "x/photo.png")
    assert names(look(folder)) == {
        "photo.jpg": "photo.jpg.png",
        "photo.png": "photo.png.png",
        "other.png": "other.png",
        "x/photo.png": "x/photo.png",
    }


def test_names_collide_regardless_of_case_and_of_a_second_extension(folder: Path) -> None:
    touch(folder, "A.jpg", "a.png", "b.jpg", "b.png", "b.jpg.webp")
    outputs = list(names(look(folder)).values())
    assert len({name.casefold() for name in outputs}) == len(outputs) == 5, outputs


def test_what_is_skipped_says_why(folder: Path, tmp_path: Path) -> None:
    touch(folder, "a.png", "notes.md", "alone.txt", "a.toml", ".hidden.png", "noext")
    touch(tmp_path, "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    found = look(folder)
    assert list(names(found)) == ["a.png"]
    why = reasons(found)
    assert set(why) == {"notes.md", "alone.txt", ".hidden.png", "noext", "link.png", "loop", "pipe.png"}
    assert "symbolic link" in why["link.png"] and "symbolic link" in why["loop"]
    assert "regular" in why["pipe.png"] and "hidden" in why[".hidden.png"] and "prompt" in why["alone.txt"]


def test_links_to_files_are_followed_when_asked(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path, "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    assert list(names(look(folder, follow_links=True))) == ["link.png"]


def test_sidecars_belong_to_their_image(folder: Path) -> None:
    touch(folder, "a.png", "a.toml", "a.txt", "b.png", "b.png.toml")
    found = look(folder)
    assert [sorted(p.name for p in one.sidecars) for one in found.found] == [["a.toml", "a.txt"], ["b.png.toml"]]
    assert not found.skipped


def test_names_are_taken_as_they_are(folder: Path) -> None:
    odd = ["[a-z].png", "-rf.png", "two\nlines.png", "ünïcødé 猫.png", "%20.png", "x" * 240 + ".png"]
    touch(folder, *odd)
    assert sorted(names(look(folder))) == sorted(odd)


@pytest.mark.parametrize("output", ["in/out", "in", "in/deep/er"])
def test_output_inside_input_is_refused(folder: Path, tmp_path: Path, output: str) -> None:
    touch(folder, "a.png")
    with pytest.raises(RunError, match="inside") as error:
        discover(folder, tmp_path / output, suffix=".png")
    assert error.value.exit_code == 2 and "-o" in error.value.hint


def test_output_inside_input_is_seen_through_a_link(folder: Path, tmp_path: Path) -> None:
    touch(folder, "a.png", "sub/b.png")
    (tmp_path / "elsewhere").symlink_to(folder / "sub")
    with pytest.raises(RunError, match="inside"):
        discover(folder, tmp_path / "elsewhere", suffix=".png")


def test_nothing_to_do_says_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no image"):
        look(folder)
    touch(folder, "notes.md")
    with pytest.raises(RunError) as error:
        look(folder)
    assert "1 other file" in error.value.hint
    with pytest.raises(RunError, match="There is no"):
        look(tmp_path / "nowhere")


def test_one_file_is_an_input_of_its_own(folder: Path) -> None:
    touch(folder, "a.png", "b.png")
    found = discover(folder / "a.png", folder / "out", suffix=".png")
    assert names(found) == {"a.png": "a.png"} and found.root == folder


def test_a_sidecar_that_is_a_link_is_skipped_unless_links_are_followed(folder: Path, tmp_path: Path) -> None:
    touch(folder, "a.png")
    touch(tmp_path, "secret", "one.png")
    (folder / "a.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "one.toml").symlink_to(tmp_path / "secret")
    assert look(folder).found[0].sidecars == () and "symbolic link" in reasons(look(folder))["a.txt"]
    assert look(folder, follow_links=True).found[0].sidecars == (folder / "a.txt",)
    single = discover(tmp_path / "one.png", tmp_path / "out", suffix=".png")
    assert single.found[0].sidecars == (tmp_path / "one.toml",), "whoever names one file means what is beside it"


def test_what_is_neither_a_folder_nor_a_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(RunError, match="neither a folder nor a file"):
        look(folder / "pipe.png")


def test_the_folder_at_work_is_named_by_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(RunError, match="inside the input folder /"):
        discover(Path(), Path("out"), suffix=".png")


def test_previews_and_reviewed_copies_of_an_earlier_run_are_no_inputs(folder: Path) -> None:
    """An output folder as the input of another run."""
    touch(folder, "report/mine.png", "old/a.png", "old/report/thumbs/1.webp", "old/review/flagged/a.png")
    assert set(names(look(folder))) >= {"report/mine.png", "old/report/thumbs/1.webp"}, "a folder like others"
    (folder / "old" / ".tilehires").mkdir()
    assert set(names(look(folder))) == {"report/mine.png", "old/a.png"}
    assert "tilehires keeps" in reasons(look(folder))["old/report"]
