"""The stage cache: what is put in comes out, what is damaged doesn't, and what shapes a result is in its fingerprint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import BaseModel

from tilehires.batch.store import LEVELS, Store, fingerprint, quantised, restored
from tilehires.checks import Finding
from tilehires.geometry import Box
from tilehires.progress import Silent
from tilehires.scratch import Scratch
from tilehires.stages import Source, StageResult, Tools

KEY = "ab" * 32


class Values(BaseModel):
    strength: float = 0.5
    name: str = "x"


class Stub:
    """A stage that does nothing."""

    def __init__(self, **changes: Any) -> None:
        self.name, self.version, self.makes_pixels = "hires", 1, True
        self.settings: BaseModel = Values()
        self.models: tuple[Path, ...] = ()
        for name, value in changes.items():
            setattr(self, name, value)

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        return image


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def picture(width: int = 5, height: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def test_what_is_put_comes_out_as_put_returned_it(tmp_path: Path) -> None:
    store, finding = Store(tmp_path, 10**9), Finding("black", "error", 2.0, 0.0, Box(1, 2, 3, 4), "dark")
    facts = {"tiles": [(0, 0, 4, 4)], "steps": 3}
    kept = store.put(KEY, Stub(), StageResult(picture(), facts, (finding,)), {"torch": "2.9"})
    entry = Store(tmp_path, 10**9).peek(KEY)
    assert entry is not None
    found = store.pixels(KEY, entry, Silent())
    assert found is not None and np.array_equal(found, kept.pixels)
    assert entry.facts == kept.facts == {"tiles": [[0, 0, 4, 4]], "steps": 3}
    assert entry.findings == kept.findings == (finding,)
    assert entry.environment == {"torch": "2.9"}


def test_strips_and_mapped_files_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(7, 40)
    plain = Store(tmp_path / "plain", 10**9).put(KEY, Stub(), StageResult(image), {})
    monkeypatch.setattr("tilehires.batch.store.ROWS", 9)
    store = Store(tmp_path / "strips", 10**9, Scratch(tmp_path, least=1))
    kept = store.put(KEY, Stub(), StageResult(image), {})
    entry = store.peek(KEY)
    assert entry is not None and entry == Store(tmp_path / "plain", 10**9).peek(KEY)
    found = store.pixels(KEY, entry, Silent())
    assert isinstance(kept.pixels, np.memmap) and isinstance(found, np.memmap)
    assert np.array_equal(kept.pixels, plain.pixels) and np.array_equal(found, plain.pixels)
    one, other = ((tmp_path / name / KEY[:2] / f"{KEY}.npy").read_bytes() for name in ("plain", "strips"))
    assert one == other


def test_a_stage_without_pixels_leaves_a_record_alone(tmp_path: Path) -> None:
    store, image = Store(tmp_path, 10**9), picture()
    kept = store.put(KEY, Stub(makes_pixels=False), StageResult(image), {})
    assert kept.pixels is image, "pixels that didn't change must not be rounded once more"
    entry = store.peek(KEY)
    assert entry is not None and entry.crc32 is None and not list(tmp_path.rglob("*.npy"))


@given(
    arrays.arrays(np.float32, (3, 4, 3), elements=st.floats(-2, 2, width=32) | st.just(np.nan) | st.just(np.inf)),
)
def test_rounding_is_bounded_and_done_once(pixels: np.ndarray) -> None:
    once = restored(quantised(pixels))
    assert np.array_equal(restored(quantised(once)), once), "a second passage through the cache changes the picture"
    wanted = np.clip(np.nan_to_num(pixels, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    assert np.abs(once - wanted).max() <= 0.5 / LEVELS + 1e-7


def test_every_level_survives() -> None:
    levels = np.arange(LEVELS + 1, dtype=np.uint16).reshape(-1, 1, 1)
    assert np.array_equal(quantised(restored(levels)), levels)


def test_nothing_is_known_of_what_was_never_put(tmp_path: Path) -> None:
    assert Store(tmp_path, 10**9).peek(KEY) is None


def test_dropped_pixels_are_silently_missing_and_damaged_ones_are_said(tmp_path: Path) -> None:
    store, notes = Store(tmp_path, 10**9), Notes()
    store.put(KEY, Stub(), StageResult(picture()), {})
    entry = store.peek(KEY)
    assert entry is not None
    (artefact,) = tmp_path.rglob("*.npy")
    data = artefact.read_bytes()
    artefact.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert store.pixels(KEY, entry, notes) is None
    assert len(notes.said) == 1 and "damaged" in notes.said[0]
    artefact.unlink()
    assert store.pixels(KEY, entry, notes) is None and len(notes.said) == 1


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((2, 2, 3)), np.asfortranarray(np.ones((4, 5, 3), "u2"))])
def test_an_array_of_another_kind_is_damage(tmp_path: Path, array: np.ndarray) -> None:
    store = Store(tmp_path, 10**9)
    store.put(KEY, Stub(), StageResult(picture()), {})
    entry = store.peek(KEY)
    (artefact,) = tmp_path.rglob("*.npy")
    np.save(artefact, array)
    assert entry is not None and store.pixels(KEY, entry, Silent()) is None


def test_the_oldest_pixels_go_first_and_their_records_stay(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    keys = [letter * 64 for letter in "abcd"]
    for age, key in enumerate(keys):
        store.put(key, Stub(), StageResult(picture(50, 50)), {})
        (artefact,) = (path for path in tmp_path.rglob("*.npy") if path.stem == key)
        os.utime(artefact, (1000 + age, 1000 + age))
    each = max(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    Store(tmp_path, 2 * each + 1).trim()
    assert {path.stem for path in tmp_path.rglob("*.npy")} == set(keys[2:])
    assert all(store.peek(key) for key in keys)
    Store(tmp_path, 0).trim()
    assert not list(tmp_path.rglob("*.npy"))


def test_what_is_needed_now_goes_last(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    for age, key in enumerate(letter * 64 for letter in "ab"):
        store.put(key, Stub(), StageResult(picture(50, 50)), {})
        os.utime(tmp_path / key[:2] / f"{key}.npy", (1000 + age, 1000 + age))
    entry = store.peek("a" * 64)
    assert entry and store.pixels("a" * 64, entry, Silent()) is not None
    Store(tmp_path, store.stored() - 1).trim()
    assert [path.stem[0] for path in tmp_path.rglob("*.npy")] == ["a"]


def test_what_other_processes_put_is_counted(tmp_path: Path) -> None:
    """A worker stores, and the driver trims."""
    worker, driver = Store(tmp_path, 0), Store(tmp_path, 50_000)
    driver.trim()
    for letter in "abc":
        worker.put(letter * 64, Stub(), StageResult(picture(50, 50)), {})
        driver.grew(worker.stored())
    assert worker.stored() == 0
    driver.trim()
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.npy")]
    assert len(sizes) == 3 and sum(sizes) <= 50_000
    worker.put("d" * 64, Stub(), StageResult(picture(50, 50)), {})
    driver.grew(worker.stored())
    driver.trim()
    assert {path.stem[0] for path in tmp_path.rglob("*.npy")} == {"b", "c", "d"}


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "name": lambda: {"name": "tiled.1"},
    "version": lambda: {"version": 2},
    "a setting": lambda: {"settings": Values(strength=0.6)},
    "a model": lambda: {"models": (Path("a.safetensors"),)},
}
HASHES = {"a.safetensors": "1" * 64}


@pytest.mark.parametrize("what", CHANGES)
def test_what_shapes_a_result_is_in_its_fingerprint(what: str) -> None:
    assert fingerprint(Stub(**CHANGES[what]()), "p", HASHES, None) != fingerprint(Stub(), "p", HASHES, None)


def test_parent_model_bytes_and_declared_environment_are_in_the_fingerprint() -> None:
    stage = Stub(models=(Path("a.safetensors"),))
    plain = fingerprint(stage, "p", HASHES, None)
    assert fingerprint(stage, "q", HASHES, None) != plain
    assert fingerprint(stage, "p", {"a.safetensors": "2" * 64}, None) != plain
    assert fingerprint(stage, "p", HASHES, {"torch": "2.9"}) != plain
    assert fingerprint(stage, "p", {**HASHES, "other": "3"}, None) == plain, "another stage's model redoes this one"


def test_a_moved_model_keeps_its_fingerprint() -> None:
    here, there = Stub(models=(Path("a.safetensors"),)), Stub(models=(Path("x/a.safetensors"),))
    assert fingerprint(here, "p", HASHES, None) == fingerprint(there, "p", {"x/a.safetensors": "1" * 64}, None)
