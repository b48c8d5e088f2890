"""Faults around the program: full disks, missing rights, a second process, damaged caches, bugs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batches import FAST, Workplace, draw, leftovers, outputs
from tilehires.batch.runner import run
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.errors import ExitCode, RunError
from tilehires.stages.redenoise import PassStage

QUICK = {"hires": {"scale": 4, "denoise": 0, "upscaler": "Lanczos"}}


@pytest.fixture
def quick() -> Config:
    return Config.load().with_layer(QUICK, "test")


@pytest.fixture
def reference(place: Workplace, quick: Config) -> dict[str, bytes]:
    """What an undisturbed run makes of two images, which are then in the input folder."""
    draw(place.input / "a.png", 8, 6)
    draw(place.input / "b.png", 6, 8, seed=1)
    assert run(quick, place.input, place.root / "whole").exit_code == ExitCode.OK
    return outputs(place.root / "whole")


# Disks


@pytest.mark.parametrize("where", ["fsync", "replace", "mkdir"])
def test_a_full_disk_stops_the_run_wherever_it_is_met(
    place: Workplace, quick: Config, reference: dict[str, bytes], where: str
) -> None:
    real, source = getattr(os, where), place.input / "a.png"
    for number in range(200):
        output, seen = place.root / f"{where}{number}", 0

        def full(*arguments: Any, _number: int = number, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > _number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, where, full)
            try:
                summary = run(quick, source, output)
            except RunError as error:
                assert "full" in error.message and "same command" in error.hint, f"{error} (call {number})"
                assert error.exit_code == ExitCode.USAGE
            else:
                # A folder that exists already may fail to be made.
                assert summary.exit_code == ExitCode.OK, f"{summary.lines()} (call {number})"
                if seen <= number:
                    return
        found = outputs(output)
        assert all(reference[name] == data for name, data in found.items()), f"half a file, call {number}"
        assert run(quick, source, output).exit_code == ExitCode.OK
        assert outputs(output) == {"a.png": reference["a.png"]} and not leftovers(output), f"call {number}"
    pytest.fail("the run never got through: there are more calls than thought")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount command here")
def test_a_disk_that_is_really_full(place: Workplace, small_disk: Path) -> None:
    draw(place.input / "a.png", 100, 100)
    draw(place.input / "b.png", 100, 100, seed=1)
    ended = place.run(*FAST, "--scale", "4", output=small_disk)
    assert ended.code == ExitCode.USAGE, ended.out + ended.err
    assert "The disk is full" in ended.err and "same command" in ended.err
    assert not outputs(small_disk)


def test_a_folder_that_may_not_be_written() -> None:
    """As root nothing is forbidden, so a fork gives its rights up first."""
    base = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        base.chmod(0o755)
        (base / "locked").mkdir(mode=0o555)
        said = base / "said"
        said.touch()
        said.chmod(0o666)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setegid(65534)
                    os.seteuid(65534)
                for output in (base / "locked", base / "locked" / "deeper"):
                    try:
                        with Workspace(output).locked():
                            pass
                    except RunError as error:
                        with said.open("a") as stream:
                            stream.write(f"{int(error.exit_code)} {error}\n")
                code = 0
            except BaseException as error:
                said.write_text(repr(error))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said.read_text()
        lines = said.read_text().splitlines()
    finally:
        shutil.rmtree(base)
    assert len(lines) == 2, lines
    for line in lines:
        assert line.startswith("2 ") and "-o" in line, line


# Two at once


def test_a_second_process_on_one_output(place: Workplace, quick: Config) -> None:
    draw(place.input / "a.png")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with Workspace(place.output).locked():
                os.write(told, b"locked")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 6) == b"locked"
        ended = place.run(*FAST)
        assert ended.code == ExitCode.LOCKED
        assert "Another tilehires works on" in ended.err and "hint: " in ended.err
        assert place.run(*FAST, output=place.root / "other").code == ExitCode.OK
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert place.run(*FAST).code == ExitCode.OK, "the lock of a killed process must not last"


# Caches and records that are not as they were left


def overwrite(*data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(b"".join(data))

    return damage


def flip(path: Path) -> None:
    """One bit, in the pixels."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "halved": halve,
    "emptied": overwrite(),
    "a bit flipped": flip,
    "garbage": overwrite(os.urandom(500)),
    "zip": overwrite(b"PK\x03\x04", bytes(200)),
    "zeros": overwrite(bytes(2000)),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_pixels_in_the_cache_are_made_again(place: Workplace, reference: dict[str, bytes], name: str) -> None:
    config = Config.load().with_layer(QUICK, "test")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    for path in (place.output / ".tilehires" / "cache").glob("*/*.npy"):
        DAMAGE[name](path)
    for file in outputs(place.output):
        (place.output / file).unlink()
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    assert outputs(place.output) == reference


TEXTS: dict[str, Callable[[Path], None]] = {
    "halved": halve,
    "emptied": overwrite(),
    "garbage": overwrite(b"\xff\xfe\x00garbage"),
    "a list": overwrite(b"[]"),
    "a number": overwrite(b"5"),
    "null": overwrite(b"null"),
    "an object": overwrite(b"{}"),
    "wrong types": overwrite(b'{"id": 5, "input": 7, "crc32": "x", "facts": 3, "findings": [1], "environment": 0}'),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("which", ["cache/*/*.json", "records/*.json", "hashes.jsonl", "finished.jsonl"])
def test_damaged_records_are_made_again(place: Workplace, reference: dict[str, bytes], which: str, name: str) -> None:
    config = Config.load().with_layer(QUICK, "test")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    damaged = list((place.output / ".tilehires").glob(which))
    assert damaged
    for path in damaged:
        TEXTS[name](path)
    again = run(config, place.input, place.output)
    assert again.exit_code == ExitCode.OK, again.lines()
    assert outputs(place.output) == reference
    forced = run(config.with_layer({"run": {"bits": "16"}}, "test"), place.input, place.output)
    assert forced.exit_code == ExitCode.OK, forced.lines()


def test_a_ledger_line_that_was_cut_off_spoils_itself_alone(place: Workplace, reference: dict[str, bytes]) -> None:
    config = Config.load().with_layer(QUICK, "test")
    place.output.mkdir()
    with Workspace(place.output).locked():
        (place.output / ".tilehires" / "outputs.jsonl").write_text('["a.png", "12', encoding="utf-8")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    changed = run(config.with_layer({"run": {"bits": "16"}}, "test"), place.input, place.output)
    assert changed.exit_code == ExitCode.OK, f"its own files are strangers to it: {changed.lines()}"


def test_without_its_ledger_it_overwrites_nothing(place: Workplace, reference: dict[str, bytes]) -> None:
    config = Config.load().with_layer(QUICK, "test")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    shutil.rmtree(place.output / ".tilehires")
    assert run(config, place.input, place.output).exit_code == ExitCode.IMAGES_FAILED
    assert outputs(place.output) == reference


def test_a_cache_of_no_size_still_ends_with_the_same_bytes(place: Workplace, reference: dict[str, bytes]) -> None:
    config = Config.load().with_layer({**QUICK, "run": {"cache_limit": "0"}}, "test")
    assert run(config, place.input, place.output).exit_code == ExitCode.OK
    assert outputs(place.output) == reference
    assert not list((place.output / ".tilehires").rglob("*.npy"))
    assert all(record.cached for record in run(config, place.input, place.output).records)


# Bugs, ours and others'


def broken_on_b(place: Workplace, monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """What is said of b.png when its pass raises `error`, once it is sure that the others were done."""
    draw(place.input / "a.png")
    draw(place.input / "b.png", 13, 13, seed=1)
    draw(place.input / "c.png", seed=2)
    real = PassStage.run

    def breaks_on_b(stage: PassStage, image: Any, *rest: Any) -> Any:
        if image.pixels.shape[0] == 13:
            raise error
        return real(stage, image, *rest)

    monkeypatch.setattr(PassStage, "run", breaks_on_b)
    assert place.run(*FAST).code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"a.png": "done", "b.png": "failed", "c.png": "done"}
    return place.images()["b.png"]["error"]["message"]


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), RecursionError(), OSError(5, "I/O error")])
def test_a_bug_costs_one_image_and_leaves_its_traceback(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert type(error).__name__ in broken_on_b(place, monkeypatch, error)
    (log,) = (place.output / ".tilehires" / "runs").iterdir()
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert any(event["event"] == "traceback" and "breaks_on_b" in event["text"] for event in events)
    assert [event["id"] for event in events if event["event"] == "image"] == ["a.png", "b.png", "c.png"]


def test_host_memory_that_runs_out_costs_one_image(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory ran out" in broken_on_b(place, monkeypatch, MemoryError())


def test_an_input_that_changes_while_it_is_read_fails_alone(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilehires.images.decoder import Isolated

    draw(place.input / "a.png")
    draw(place.input / "b.png", seed=1)
    real = Isolated.read

    def read_while_it_is_written(self: Isolated, path: Path, **named: Any) -> Any:
        picture = real(self, path, **named)
        if path.name == "b.png":
            draw(path, 30, 30, seed=9)
        return picture

    monkeypatch.setattr(Isolated, "read", read_while_it_is_written)
    ended = place.run(*FAST, "--set", "run.overlap=false")  # else it is read before its turn, and then as it is
    assert ended.code == ExitCode.IMAGES_FAILED
    assert place.statuses() == {"a.png": "done", "b.png": "failed"} and "changed while" in ended.out


def test_ctrl_c_between_and_within_images(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        draw(place.input / name, seed=ord(name[0]))
    real, begun = PassStage.run, []

    def pressed(stage: PassStage, *rest: Any) -> Any:
        begun.append(stage.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(stage, *rest)

    monkeypatch.setattr(PassStage, "run", pressed)
    ended = place.run(*FAST)
    assert ended.code == ExitCode.INTERRUPTED
    assert "1 done" in ended.out and "2 not reached" in ended.out and "same command goes on" in ended.out
    assert place.report()["summary"]["done"] == 1 and set(outputs(place.output)) == {"a.png"}
    assert place.run(*FAST).code == ExitCode.OK
    assert {name: image["cached"] for name, image in place.images().items()} == {
        "a.png": True,
        "b.png": False,
        "c.png": False,
    }


def test_pixels_that_are_no_numbers_are_flagged(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilehires.tiling import vae

    draw(place.input / "a.png", 32, 32)
    real = vae.decode_into

    def with_a_hole(model: Any, latents: Any, sink: Any, **named: Any) -> None:
        def put(row: int, strip: Any) -> None:
            strip[..., : max(0, 9 - row), :5] = np.inf
            sink(row, strip)

        real(model, latents, put, **named)

    monkeypatch.setattr(vae, "decode_into", with_a_hole)
    ended = place.run("--steps", "1", "--strict")
    assert ended.code == ExitCode.FLAGGED, ended.out + ended.err
    (finding,) = [one for one in place.images()["a.png"]["findings"] if one["check"] == "finite"]
    assert finding["box"] == [0, 0, 5, 9] and finding["value"] == 45


def test_a_model_that_answers_no_numbers_costs_its_image(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilehires.diffusion.predictor import Predictor

    draw(place.input / "a.png", 32, 32)
    real = Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda *arguments: real(*arguments) * float("nan"))
    ended = place.run("--steps", "1", "--strict")
    assert ended.code == ExitCode.IMAGES_FAILED, ended.out + ended.err
    error = place.images()["a.png"]["error"]
    assert error["type"] == "ImageError" and "finite" in error["message"] and "cfg" in error["hint"]
    assert not outputs(place.output)
