"""Render what benchmarks/checks.py judges, once: real outputs of the pipeline with the built-in model.

    nice -n 10 python -m benchmarks.check_renders FOLDER [--set judged|calibration|fresh|blind]

Each lot is a folder of inputs, tools.calibration_pictures at 192 px (128 px at 4x), and one of outputs, which a run that
was broken off goes on with. All are made in tiles of 192 px with an overlap of 48, so that there are seams to judge: at the
default preset's size they would be one tile. About half a minute an image on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tilehires import run
from tilehires.config import Config
from tools.calibration_pictures import BLIND, CALIBRATION, FRESH, JUDGED, Pictures, write

SETS = {"judged": JUDGED, "calibration": CALIBRATION, "fresh": FRESH, "blind": BLIND}


@dataclass(frozen=True)
class Lot:
    """Pictures of a set, of `side` px, every `every`-th, enlarged by `scale` at `denoise`."""

    kind: str
    scale: int
    denoise: float
    side: int
    every: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.scale}x-{self.denoise}"

    @property
    def good(self) -> bool:
        """From 0.1 on the built-in model adds grain (configs/default.toml), which is a defect."""
        return self.denoise < 0.1

    @property
    def pictures(self) -> Pictures:
        return SETS[self.kind]


LOTS = (
    Lot("judged", 2, 0.05, 192, 1),
    Lot("judged", 4, 0.05, 128, 3),
    Lot("judged", 2, 0.0, 192, 3),
    Lot("judged", 2, 0.025, 192, 6),
    Lot("judged", 2, 0.1, 192, 6),
    Lot("calibration", 2, 0.0, 192, 4),
    Lot("calibration", 4, 0.05, 128, 4),
    Lot("calibration", 2, 0.05, 192, 1),
    Lot("fresh", 2, 0.05, 160, 1),
    Lot("fresh", 4, 0.05, 112, 4),
    Lot("fresh", 2, 0.0, 160, 4),
    Lot("blind", 2, 0.05, 192, 1),
    Lot("blind", 4, 0.05, 128, 3),
    Lot("blind", 2, 0.0, 192, 4),
    Lot("blind", 2, 0.025, 192, 6),
)


def outputs(folder: Path, lot: Lot) -> Path:
    """Where a lot's outputs and their report are."""
    return folder / f"{lot.name}-out"


def rendered(folder: Path, kind: str) -> Iterator[Lot]:
    """The lots of a set that are there."""
    return (lot for lot in LOTS if lot.kind == kind and (outputs(folder, lot) / "report" / "report.json").is_file())


def render(folder: Path, lot: Lot) -> None:
    """Make a lot; what is there already is taken from the cache."""
    inputs = folder / lot.name
    write(inputs, lot.pictures, lot.side, lot.every)
    values = {
        "hires": {"max_canvas": 256, "scale": float(lot.scale), "denoise": lot.denoise},
        "tiled": {"tile_max": 192, "tile_min": 128, "overlap": 48},
        "run": {"device": "cpu"},
    }
    summary = run(Config.load().with_layer(values, "benchmark"), inputs, outputs(folder, lot))
    print(f"{lot.name}: " + " ".join(summary.lines()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Render what the checks are judged and calibrated on.")
    parser.add_argument("folder", type=Path, help="a cache outside the repository")
    parser.add_argument("--set", choices=sorted(SETS), help="only that one")
    given = parser.parse_args()
    for lot in LOTS:
        if given.set in (None, lot.kind):
            render(given.folder, lot)


if __name__ == "__main__":
    main()
