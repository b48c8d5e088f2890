"""From the reports of finished runs to a preset with percentiles of the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilehires.checks.calibration import Calibration, calibrate
from tilehires.config.presets import find
from tilehires.config.toml import literal
from tilehires.errors import RunError
from tilehires.report.document import load

EXACT = ("black", "finite", "size", "duplicates")
FEWEST = 20  # images: the limit that flags 2 % can't be told from fewer


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and the number of images that it is from."""

    calibration: Calibration
    images: int


def calibrated(outputs: Sequence[Path]) -> Calibrated:
    """The calibration by which 2 % of these runs' finished images would be flagged. Raises RunError for too few of them."""
    runs = [values for output in outputs for values in measured(output)]
    if len(runs) < FEWEST:
        raise RunError(
            f"{len(runs)} finished images are too few to calibrate on.",
            hint=f"Run at least {FEWEST} good images first, better a hundred, with the checks on.",
        )
    return Calibrated(calibrate(runs), len(runs))


def measured(output: Path) -> list[dict[str, float]]:
    """What the checks measured on each finished image of an output folder, by check, without what is exact."""
    return [
        {
            one["check"]: one["value"]
            for one in image.get("findings", ())
            if isinstance(one["value"], int | float) and one["check"] not in EXACT
        }
        for image in load(output)["images"]
        if image["status"] == "done"
    ]


def preset(found: Calibrated, extends: str, folder: Path) -> str:
    """The TOML of a preset that says only this calibration, to lie in `folder`. Raises ConfigError for no such `extends`."""
    if not (folder / extends).is_file():
        find(extends)
    tables = {name: one.table for name, one in sorted(found.calibration.known.items())}
    lines = [
        f"# What the checks measure on {found.images} images known to be good (tilehires calibrate): each check's values at",
        "# the percentiles 0, 10, 25, 50, 75, 90 and 99, and the score above which 2 % of the images lie.",
        f"extends = {literal(extends)}",
        "",
        "[check]",
        f"score_limit = {literal(round(found.calibration.score_limit, 4))}",
        "",
        "[check.percentiles]",
        *(f"{name} = [{', '.join(literal(float(f'{v:.9g}')) for v in table)}]" for name, table in tables.items()),
    ]
    return "\n".join(lines) + "\n"
