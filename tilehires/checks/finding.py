"""What a check has to say about one place of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tilehires.geometry import Box

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one check; `box` is in output pixels, None means the whole image. Severity "info" is no flag.

    `value` is None where the check abstained: there was nothing to measure, which is not the same as a good value.
    """

    check: str
    severity: Severity
    value: float | None
    limit: float
    box: Box | None
    message: str

    @property
    def flags(self) -> bool:
        return self.severity != "info"

    @property
    def abstained(self) -> bool:
        return self.value is None


def measured(check: str, value: float, limit: float, box: Box | None, message: str) -> Finding:
    """A measured value: "warning" above the limit, "info" up to it. `box`: the worst place."""
    return Finding(check, "warning" if value > limit else "info", float(value), limit, box, message)


def relimited(finding: Finding, limits: Mapping[str, float]) -> Finding:
    """The finding at the limit that `limits` gives its check. Errors, and what abstained, stay as they are."""
    limit = limits.get(finding.check)
    if limit is None or finding.value is None or finding.severity == "error":
        return finding
    return replace(finding, limit=limit, severity="warning" if finding.value > limit else "info")


def abstained(check: str, limit: float, reason: str) -> Finding:
    """Not applicable: neither a pass nor a flag."""
    return Finding(check, "info", None, limit, None, f"n/a: {reason}.")
