"""Addresses of object stores: what is one, what is refused, what a command says to one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batches import FAST, Workplace, draw, refused
from tests.stores import hasty as hasty  # for every test here
from tests.stores import listed, machine, stored
from tests.stores import store as store
from tilehires.batch.address import Place, place_of
from tilehires.batch.runner import run
from tilehires.errors import ConfigError, ExitCode, RunError
from tilehires.report import load


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
