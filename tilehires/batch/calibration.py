"""From the reports of finished runs to a preset with limits of the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilehires.checks.calibration import limits
from tilehires.config.toml import literal
from tilehires.errors import RunError
from tilehires.report.document import load

EXACT = ("black", "finite", "size", "duplicates")
FEWEST = 20  # images: the limit that flags 2 % can't be told from fewer


@dataclass(frozen=True, slots=True)
class Calibrated:
    """`limits` by check, from that many `images`."""

    limits: dict[str, float]
    images: int


def calibrated(outputs: Sequence[Path]) -> Calibrated:
    """The limits at which 2 % of these runs' finished images would be flagged. Raises RunError for too few of them."""
    measured = []
    for output in outputs:
        for image in load(output)["images"]:
            if image["status"] == "done":
                values = {
                    f["check"]: f["value"] for f in image.get("findings", ()) if isinstance(f["value"], int | float)
                }
                measured.append({name: value for name, value in values.items() if name not in EXACT})
    if len(measured) < FEWEST:
        raise RunError(
            f"{len(measured)} finished images are too few to calibrate on.",
            hint=f"Run at least {FEWEST} good images first, better a hundred, with the checks on.",
        )
    return Calibrated(limits(measured), len(measured))


def preset(found: Calibrated, extends: str) -> str:
    """The TOML of a preset that says only these limits."""
    lines = [
        f"# Limits of the checks that flag 2 % of {found.images} images known to be good (tilehires calibrate).",
        f"extends = {literal(extends)}",
        "",
        "[check.limits]",
        *(f"{name} = {literal(float(f'{value:.4g}'))}" for name, value in sorted(found.limits.items())),
    ]
    return "\n".join(lines) + "\n"
