"""torch held to its deterministic algorithms, for as long as a run takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def deterministic_algorithms(asked: bool) -> Iterator[None]:
    """Inside, when `asked`, an operation without a deterministic form is an error instead of a coin toss."""
    if not asked:
        yield
        return
    # cuBLAS reads this when its first handle is made; without it torch refuses its matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
