"""Large arrays lie in files without a name, and nothing else about them differs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tilehires.errors import RunError
from tilehires.scratch import Scratch


def test_from_its_bound_on_an_array_is_mapped_and_its_file_has_no_name(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, least=120)
    small, large = scratch.zeros((9, 1, 3)), scratch.zeros((5, 2, 3))
    assert not isinstance(small, np.memmap) and isinstance(large, np.memmap)
    assert large.shape == (5, 2, 3) and large.dtype == np.float32 and not large.any()
    large += 1
    assert large.sum() == 30 and not list(tmp_path.iterdir())


def test_without_a_folder_all_stay_in_memory() -> None:
    assert not isinstance(Scratch(None, least=0).zeros((4, 4)), np.memmap)


def test_a_full_disk_is_said_before_the_first_number_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="disk is full"):
        Scratch(tmp_path, least=1).zeros((8, 8))


def test_a_system_without_reserving_gets_every_byte_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    array = Scratch(tmp_path, least=1).zeros((700, 500))
    assert array.shape == (700, 500) and not array.any()
