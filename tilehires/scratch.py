"""Large arrays that needn't stay in memory: mapped from files without a name, which the system may write out and evict."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tilehires.files import raise_if_hopeless

MAPPED = 512 * 2**20


@dataclass(frozen=True)
class Scratch:
    """Where large arrays go: into files of `folder` from `least` bytes on; without a folder all stay in memory."""

    folder: Path | None = None
    least: int = MAPPED

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array of zeros. Its file has no name, so that nothing is left of it after a crash.

        The disk is reserved at once: a full one raises RunError here, where touching a hole in the mapped file would
        kill the process.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size < self.least:
            return np.zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                _reserve(file, size)
                return np.memmap(file, dtype, mode="r+", shape=shape)
        except OSError as error:
            raise_if_hopeless(error, self.folder / "scratch")
            raise


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(2**20)
    for start in range(0, size, len(block)):
        file.write(block[: size - start])
    file.flush()
