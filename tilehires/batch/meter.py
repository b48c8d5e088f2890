"""What a stage took: seconds and memory. These differ between equal runs, and so stand in report.json only."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Spent:
    """Nothing, for a stage from the cache; else its seconds, and facts about the machine."""

    seconds: float = 0.0
    facts: Mapping[str, int] = field(default_factory=dict)

    @property
    def cached(self) -> bool:
        return not self.facts


class Meter:
    """Runs from its making until it is read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Spent:
        """Seconds since, and peak memory in bytes: the stage's own on CUDA, elsewhere the process's until now."""
        return Spent(time.monotonic() - self._began, {"peak_memory_bytes": self._peak()})

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            import resource
        except ImportError:  # Windows has no such figure in the standard library
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Kilobytes on Linux, bytes on macOS.
        return peak if sys.platform == "darwin" else peak * 1024
