"""Decoding beside the run: a decoder that crashes, hangs, eats memory or lies costs its image, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import hostile_worker
from tests.batches import FAST, Workplace, draw, leftovers, outputs
from tests.pictures import SRGB, camera_exif, draw_png, picture
from tilehires.errors import ExitCode, ImageError, RunError
from tilehires.images import FileFormat, InProcess, Isolated, decoder, read, write

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux alone")


def same(left: Any, right: Any) -> bool:
    for one in fields(left):
        mine, other = getattr(left, one.name), getattr(right, one.name)
        if isinstance(mine, np.ndarray) or isinstance(other, np.ndarray):
            if mine is None or other is None or mine.dtype != other.dtype or not np.array_equal(mine, other):
                return False
        elif mine != other:
            return False
    return True


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(60) as worker:
        yield worker


@pytest.mark.parametrize(
    ("format", "bits", "alpha", "grey"),
    [
        ("png", 8, True, False),
        ("png", 16, True, False),
        ("png", 16, False, True),
        ("jpeg", 8, False, False),
        ("tiff", 16, True, False),
        ("webp", 8, True, False),
        ("avif", 8, False, False),
    ],
)
def test_what_comes_from_the_process_is_what_is_read_here(
    tmp_path: Path, isolated: Isolated, format: FileFormat, bits: int, alpha: bool, grey: bool
) -> None:
    path = tmp_path / "a \udce4\n[x].png"
    source = picture(bits=bits, alpha=alpha, grey=grey)
    texts = {"parameters": "größer 猫 \U0001f600", "note": "x" * 5000}
    extras = {"exif": camera_exif(orientation=6), "icc": None if grey else SRGB, "texts": texts, "dpi": (72.0, 72.0)}
    write(path, type(source)(**{**vars(source), **extras}), format=format, bits=str(bits))  # type: ignore[arg-type]
    assert same(isolated.read(path), read(path))
    assert isolated.probe(path) == InProcess().probe(path)
    assert isolated.preview(path, 8) == InProcess().preview(path, 8)


def test_a_file_with_notes_and_one_that_is_refused(tmp_path: Path, isolated: Isolated) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert isolated.read(tmp_path / "a.gif").notes == read(tmp_path / "a.gif").notes != ()
    (tmp_path / "cut.png").write_bytes(draw_png(8)[:60])
    for path, most in ((tmp_path / "cut.png", 10**6), (tmp_path / "none.png", 10**6), (tmp_path / "a.gif", 63)):
        with pytest.raises(ImageError) as here:
            read(path, max_pixels=most)
        with pytest.raises(ImageError) as there:
            isolated.read(path, max_pixels=most)
        assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)


# A decoder that misbehaves

HOSTILE = {
    "segfault": "crashed its decoder (SIGSEGV)",
    "abort": "crashed its decoder (SIGABRT)",
    "exit": "crashed its decoder (exit code 3)",
    "hang": "took longer than 1 s",
    "memory": "takes more memory",
    "nonsense": "crashed its decoder",
    "promise": "crashed its decoder",
}


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "ENTRY", hostile_worker.ENTRY)


@LINUX
@pytest.mark.usefixtures("hostile")
def test_a_run_goes_on_whatever_a_decoder_does(place: Workplace) -> None:
    names = [*HOSTILE, "aa good", "prints", "zz good"]
    for seed, name in enumerate(names):
        draw(place.input / f"{name}.png", seed=seed)
    began = time.monotonic()
    ended = place.run(*FAST, "--set", "run.decode_seconds=1")
    assert time.monotonic() - began < 60
    assert ended.code == ExitCode.IMAGES_FAILED, ended.err
    images = place.images()
    for name, expected in HOSTILE.items():
        error = images[f"{name}.png"]["error"]
        assert expected in error["message"] and error["type"] == "ImageError" and error["hint"]
    assert set(outputs(place.output)) == {"aa good.png", "prints.png", "zz good.png"}
    assert not leftovers(place.output)


@pytest.mark.usefixtures("hostile")
def test_a_bug_is_told_with_its_traceback_and_the_next_image_is_read(tmp_path: Path) -> None:
    bug, good = draw(tmp_path / "bug.png"), draw(tmp_path / "good.png")
    with Isolated(20) as worker:
        with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug in Python"):
            worker.read(bug)
        assert same(worker.read(good), read(good))


@LINUX
def test_a_decoder_can_write_no_file(tmp_path: Path, hostile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "written"
    monkeypatch.setenv("HOSTILE_TARGET", str(target))
    with Isolated(20) as worker, pytest.raises(RuntimeError, match="File too large"):
        worker.read(draw(tmp_path / "writes.png"))
    assert not target.exists() or target.stat().st_size == 0


def test_one_process_serves_all_and_ends_with_its_user(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    with Isolated(20) as worker:
        worker.probe(path)
        process = worker._process
        assert process is not None
        worker.read(path)
        assert worker._process is process
        process.kill()  # somebody else does it between two images
        process.wait()
        assert same(worker.read(path), read(path))
        last = worker._process
    assert last is not None and last.returncode is not None


def test_threads_take_turns(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{n}.png", 30 + n, 20, seed=n) for n in range(6)]
    right: list[Path] = []
    with Isolated(20) as worker:

        def work(path: Path) -> None:
            right.extend(path for _ in range(5) if same(worker.read(path), read(path)))

        threads = [threading.Thread(target=work, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(right) == sorted(paths * 5)


def runs(pid: int) -> bool:
    """Whether that process is there, and has not ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@LINUX
def test_a_process_whose_user_was_killed_ends_even_while_it_hangs(tmp_path: Path) -> None:
    draw(tmp_path / "hang.png")
    program = (
        "import sys; from pathlib import Path; from tests import hostile_worker; from tilehires.images import decoder;"
        "decoder.ENTRY = hostile_worker.ENTRY; worker = decoder.Isolated(-4.0); worker._process = decoder._begin();"
        "print(worker._process.pid, flush=True); decoder.threading.Timer = lambda *_: decoder.threading.Thread();"
        f"worker.read(Path({str(tmp_path / 'hang.png')!r}))"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    user = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    time.sleep(0.3)
    user.send_signal(signal.SIGKILL)
    user.wait()
    user.stdout.close()
    ending = time.monotonic() + 15
    while runs(pid):
        assert time.monotonic() < ending, "it still runs"
        time.sleep(0.05)


def test_a_process_that_cannot_start_stops_the_run_and_says_what_to_do(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "ENTRY", "raise SystemExit(7)")
    draw(place.input / "a.png")
    ended = place.run(*FAST)
    assert ended.code == ExitCode.USAGE and "run.decode_isolated=false" in ended.err
    assert place.run(*FAST, "--set", "run.decode_isolated=false").code == ExitCode.OK
    with pytest.raises(RunError), Isolated() as worker:
        worker.probe(place.input / "a.png")
