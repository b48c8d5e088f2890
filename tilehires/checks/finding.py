"""What a check has to say about one place of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tilehires.geometry import Box

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one check; `box` is in output pixels, None means the whole image. Severity "info" is no flag."""

    check: str
    severity: Severity
    value: float
    limit: float
    box: Box | None
    message: str

    @property
    def flags(self) -> bool:
        return self.severity != "info"
