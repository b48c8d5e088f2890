"""Which defects the checks find at a preset's calibration, and how many good images they flag.

    python -m benchmarks.checks FOLDER [--quick] [--preset FILE]

The good images are what `tilehires run` makes of the judged pictures of tools.calibration_pictures at the default
preset's settings, in tiles of 192 px so that there are seams to judge. They are made in FOLDER/judged-out, unless a
report is there already. The limits are those of the preset FILE that `tilehires calibrate` wrote from runs of the other
pictures of that tool, at the same settings: no photograph and no drawing is in both. Without FILE, the default preset's.

Into the judged images defects are put, kinds × severities, with fixed seeds. For each the table prints the recall of its
check at its starting limit (docs/checks.md) and at the preset's, the precision (of what is flagged among as many good as
spoilt images, at the preset's), and the AUC of the check's value; then the share of good judged images flagged in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from tilehires import run
from tilehires.batch.inspection import recorded_tiles
from tilehires.checks import check
from tilehires.checks.boundaries import boundaries
from tilehires.checks.calibration import Calibration
from tilehires.checks.planes import blurred
from tilehires.config import Config
from tilehires.geometry import Box
from tilehires.images import read
from tilehires.report.document import load
from tools.calibration_pictures import JUDGED, write

HARD = ("black", "finite", "size")


@dataclass(frozen=True)
class Sample:
    """A good output, its input, and the tile grid it is judged on."""

    name: str
    output: np.ndarray
    input: np.ndarray
    tiles: tuple[Box, ...]


def rounded(image: np.ndarray) -> np.ndarray:
    """What an 8-bit file keeps."""
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def samples(folder: Path) -> list[Sample]:
    """The judged pictures and what the default preset makes of them."""
    inputs, outputs = folder / "judged", folder / "judged-out"
    if not (outputs / "report" / "report.json").is_file():
        write(inputs, JUDGED)
        values = {
            "hires": {"max_canvas": 256},
            "tiled": {"tile_max": 192, "tile_min": 128, "overlap": 48},
            "run": {"device": "cpu"},
        }
        summary = run(Config.load().with_layer(values, "benchmark"), inputs, outputs)
        if summary.failed:
            raise SystemExit("\n".join(summary.lines()))
    return [
        Sample(
            one["id"],
            read(outputs / one["output"]["path"]).pixels,
            read(inputs / one["id"]).pixels,
            recorded_tiles(one),
        )
        for one in load(outputs)["images"]
        if one["status"] == "done"
    ]


# The defects. Each takes an output, its severity, its tiles and a generator.

Spoil = Callable[[Sample, float, np.random.Generator], np.ndarray]


def cells(sample: Sample) -> list[Box]:
    """The blocks between the tile boundaries."""
    lines, (height, width) = boundaries(sample.tiles), sample.output.shape[:2]
    xs = [0, *sorted({line.position for line in lines if line.axis == "x"}), width]
    ys = [0, *sorted({line.position for line in lines if line.axis == "y"}), height]
    return [Box(x0, y0, x1, y1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


def toned(sample: Sample, level: float, rng: np.random.Generator) -> np.ndarray:
    made = sample.output.copy()
    for box in cells(sample):
        made[box.slices] += rng.choice([-0.5, 0.5]) * level / 255
    return made


def blurred_tiles(sample: Sample, sigma: float, rng: np.random.Generator) -> np.ndarray:
    made, soft = sample.output.copy(), blurred(sample.output, sigma)
    for i, box in enumerate(cells(sample)):
        if i % 2 == 0:
            made[box.slices] = soft[box.slices]
    return made


def unsharp(sample: Sample, amount: float, rng: np.random.Generator) -> np.ndarray:
    return sample.output + amount * (sample.output - blurred(sample.output, 2))


def softened(sample: Sample, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return blurred(sample.output, sigma)


def noisy(sample: Sample, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return sample.output + rng.normal(0, sigma / 255, sample.output.shape)


def woven(sample: Sample, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A weave over the upper left quarter."""
    height, width = sample.output.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    where = (y < height / 2) & (x < width / 2)
    return sample.output + (where * np.sin(x * 1.6) * np.sin(y * 1.6) * amplitude / 255)[..., None]


def replaced(sample: Sample, side: float, rng: np.random.Generator) -> np.ndarray:
    """A patch from elsewhere in the picture, mirrored."""
    made, part = sample.output.copy(), int(side)
    (y, v), (x, u) = (rng.integers(0, length - part, 2) for length in sample.output.shape[:2])
    made[y : y + part, x : x + part] = sample.output[v : v + part, u : u + part][:, ::-1]
    return made


def tinted(sample: Sample, delta: float, rng: np.random.Generator) -> np.ndarray:
    """Shifted in Lab's a and b by `delta` together: CIE76, about as much as CIEDE2000 near grey."""
    lab = cv2.cvtColor(sample.output, cv2.COLOR_RGB2LAB)
    lab[..., 1] += delta * 0.8
    lab[..., 2] -= delta * 0.6
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def in_stairs(sample: Sample, levels: float, rng: np.random.Generator) -> np.ndarray:
    return np.rint(sample.output * (levels - 1)) / (levels - 1)


def blackened(sample: Sample, count: float, rng: np.random.Generator) -> np.ndarray:
    made, boxes = sample.output.copy(), cells(sample)
    for i in rng.choice(len(boxes), int(count), replace=False):
        made[boxes[i].slices] = 0
    return made


DEFECTS: dict[str, tuple[tuple[str, ...], Spoil, tuple[float, ...]]] = {
    "seam, levels": (("seam_tone",), toned, (1, 2, 5)),
    "seam, blur sigma": (("seam_sharpness",), blurred_tiles, (0.6, 0.8, 1.2)),
    "unsharp mask": (("oversharp",), unsharp, (0.5, 1, 2)),
    "halo, unsharp r2": (("halo",), unsharp, (0.5, 1, 2)),
    "blur, sigma": (("soft",), softened, (1, 2, 3)),
    "noise, sigma": (("noise",), noisy, (2, 4, 8)),
    "weave, amplitude": (("texture",), woven, (2, 4, 8)),
    "drift, patch px": (("drift", "structure"), replaced, (32, 64, 96)),
    "colour, delta E": (("colour", "colour_local"), tinted, (3, 6, 12)),
    "bands, levels": (("banding",), in_stairs, (64, 32, 16)),
    "black tiles": (("black",), blackened, (1, 2, 4)),
}


def measured(sample: Sample, output: np.ndarray, only: Sequence[str] = ()) -> dict[str, float]:
    """Values by check; what abstained is left out, and a hard check counts from none."""
    findings = check(output, sample.input, sample.tiles, only=only)
    values = {name: 0.0 for name in HARD if not only or name in only}
    return values | {found.check: found.value for found in findings if found.value is not None}


def starting(samples: Sequence[Sample]) -> dict[str, float]:
    """The limits of docs/checks.md."""
    return {
        found.check: found.limit for one in samples[:4] for found in check(one.output, one.input, one.tiles)
    } | dict.fromkeys(HARD, 0.0)


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The chance that a spoilt image has the larger value (ties count half)."""
    if not good or not bad:
        return float("nan")
    wins = np.subtract.outer(np.array(bad), np.array(good))
    return float(((wins > 0) + 0.5 * (wins == 0)).mean())


def above(values: dict[str, float], names: Sequence[str], limit: dict[str, float]) -> bool:
    return any(values[name] > limit[name] for name in names if name in values)


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall, precision and AUC of the artifact checks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="spoil every second image, at the middle severity only")
    parser.add_argument("--preset", help="a preset with a calibration")
    given = parser.parse_args()
    every = samples(given.folder)
    spoilt = every[::2] if given.quick else every
    own = starting(every)
    good = [measured(one, one.output) for one in every]
    settings = Config.load(given.preset).settings.check
    calibrated = own | Calibration.of_tables(settings.percentiles, settings.score_limit).limits() | settings.limits
    calibrated |= dict.fromkeys(HARD, 0.0)
    print(
        "limits: " + ", ".join(f"{name} {calibrated[name]:.3g} (start {own[name]:.3g})" for name in sorted(calibrated))
    )
    print(f"{len(every)} good images; defects put into {len(spoilt)} of them\n")
    print(f"{'defect':18}{'severity':>9}{'start: recall':>15}{'calibrated':>12}{'precision':>11}{'AUC':>7}{'n/a':>6}")
    for kind, (names, spoil, severities) in DEFECTS.items():
        for severity in severities[1:2] if given.quick else severities:
            bad = []
            for i, one in enumerate(spoilt):
                output = rounded(spoil(one, severity, np.random.default_rng(i)))
                bad.append(measured(one, output, names))
            judged = [values for values in bad if any(name in values for name in names)]
            recall = [np.mean([above(v, names, limit) for v in judged] or [np.nan]) for limit in (own, calibrated)]
            false = np.mean([above(v, names, calibrated) for v in good])
            precision = recall[1] / (recall[1] + false) if recall[1] + false else float("nan")
            areas = [auc([v[n] for v in good if n in v], [v[n] for v in bad if n in v]) for n in names]
            print(
                f"{kind:18}{severity:9g}{recall[0]:15.2f}{recall[1]:12.2f}{precision:11.2f}{max(areas):7.2f}"
                f"{len(bad) - len(judged):6}",
                flush=True,
            )
    for title, limit in (("starting", own), ("calibrated", calibrated)):
        hits = [[name for name in values if name in limit and values[name] > limit[name]] for values in good]
        which = {name: sum(name in hit for hit in hits) for name in sorted({n for hit in hits for n in hit})}
        print(f"good images flagged at the {title} limits: {np.mean([bool(hit) for hit in hits]):.1%} {which or ''}")


if __name__ == "__main__":
    main()
