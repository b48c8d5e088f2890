"""What a suite's run says: a result per case, and the exit code of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np

from tilehires.errors import TilehiresError

Status = Literal["pass", "regression", "missing", "crash"]


class RegressCode(IntEnum):
    """Exit codes of `tilehires regress` (docs/exit-codes.md). Where several apply, the first of 4, 1, 3 wins."""

    PASS = 0
    REGRESSION = 1
    USAGE = 2
    MISSING = 3
    CRASH = 4


class RenderError(TilehiresError):
    """A case can't be rendered, and so not be approved."""

    exit_code = RegressCode.CRASH


@dataclass(frozen=True)
class Result:
    """One case's. `values` and `limits` by metric; `failed` names the metrics beyond their limits; `box` the worst place.

    `made` and `reference` are float pixels for the page, None where there are none.
    """

    case: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    environment: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    box: tuple[int, int, int, int] | None = None
    identical: bool = False
    changed_settings: Mapping[str, Any] = field(default_factory=dict)
    made: np.ndarray | None = field(default=None, repr=False, compare=False)
    reference: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As in results.json: everything but the pixels."""
        return {
            "case": self.case,
            "status": self.status,
            "message": self.message,
            "seconds": round(self.seconds, 3),
            "environment": self.environment,
            "values": dict(self.values),
            "limits": dict(self.limits),
            "failed": list(self.failed),
            "box": list(self.box) if self.box else None,
            "identical": self.identical,
            "changed_settings": dict(self.changed_settings),
        }

    def line(self) -> str:
        """For the terminal."""
        figures = ", ".join(f"{name} {self.values[name]:.4g}" for name in self.failed if name in self.values)
        said = " ".join(part for part in (self.message or ("identical" if self.identical else ""), figures) if part)
        return f"{self.status:<10} {self.case}{': ' if said else ''}{said}"


def code_of(results: Sequence[Result]) -> RegressCode:
    """A crash outranks a regression, which outranks a missing baseline."""
    statuses = {result.status for result in results}
    for status, code in (
        ("crash", RegressCode.CRASH),
        ("regression", RegressCode.REGRESSION),
        ("missing", RegressCode.MISSING),
    ):
        if status in statuses:
            return code
    return RegressCode.PASS
