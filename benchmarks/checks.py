"""Which defects the checks find, and how many good images they flag.

    python -m benchmarks.checks FOLDER [--every 2] [--middle] [--preset FILE]

The good images are the judged lots that benchmarks/check_renders.py left in FOLDER: what `tilehires run` made with the
built-in model of photographs and drawings that no limit was set on, at 2x and 4x and at several strengths. The limits are
those of docs/checks.md, or of the preset FILE that `tilehires calibrate` wrote.

Into them defects are put, kinds × severities, with fixed seeds. The table has, by scale, the recall of the defect's own
check, its precision (of what is flagged among as many good as spoilt images), the AUC of its value, and how many images
it abstained on. Before it stands, by lot, the share of good images flagged by any check; a lot at which the model adds
grain isn't good.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.check_renders import Lot, outputs, rendered
from tilehires.batch.inspection import recorded_tiles
from tilehires.checks import check
from tilehires.checks.boundaries import boundaries
from tilehires.checks.calibration import Calibration
from tilehires.checks.planes import blurred
from tilehires.config import Config
from tilehires.geometry import Box
from tilehires.images import read
from tilehires.report.document import load

HARD = ("black", "finite", "size")
VISIBLE = 10 / 255  # mean difference of a patch to what it replaces: one black sky for another is no defect


@dataclass(frozen=True)
class Sample:
    """A good output, its input, the tiles of all passes it is judged on, and the last pass's, where defects are put."""

    name: str
    output: np.ndarray
    input: np.ndarray
    tiles: tuple[Box, ...]
    last: tuple[Box, ...]


def rounded(image: np.ndarray) -> np.ndarray:
    """What an 8-bit file keeps."""
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def samples(folder: Path, lot: Lot) -> list[Sample]:
    """The good outputs of a lot."""
    inputs, made = folder / lot.name, outputs(folder, lot)
    return [
        Sample(
            one["id"],
            read(made / one["output"]["path"]).pixels,
            read(inputs / one["id"]).pixels,
            recorded_tiles(one),
            last_tiles(one),
        )
        for one in load(made)["images"]
        if one["status"] == "done"
    ]


def last_tiles(image: Mapping[str, Any]) -> tuple[Box, ...]:
    """The tiles of an image's last tiled pass, in output pixels."""
    passes = [stage["facts"]["tiles"] for stage in image["stages"] if stage["facts"].get("tiles")]
    return tuple(Box(*box) for box in passes[-1]) if passes else ()


# The defects. Each takes an output, its severity, its tiles and a generator.

Spoil = Callable[[Sample, float, np.random.Generator], np.ndarray]


def cells(sample: Sample) -> list[tuple[Box, bool]]:
    """The blocks between the last pass's tile boundaries, like the fields of a chessboard: every second is dark."""
    lines, (height, width) = boundaries(sample.last), sample.output.shape[:2]
    xs = [0, *sorted({line.position for line in lines if line.axis == "x"}), width]
    ys = [0, *sorted({line.position for line in lines if line.axis == "y"}), height]
    return [
        (Box(x0, y0, x1, y1), (i + j) % 2 == 1)
        for i, (y0, y1) in enumerate(pairwise(ys))
        for j, (x0, x1) in enumerate(pairwise(xs))
    ]


def toned(sample: Sample, level: float, rng: np.random.Generator) -> np.ndarray:
    made = sample.output.copy()
    for box, dark in cells(sample):
        made[box.slices] += (-0.5 if dark else 0.5) * level / 255
    return made


def blurred_tiles(sample: Sample, sigma: float, rng: np.random.Generator) -> np.ndarray:
    made, soft = sample.output.copy(), blurred(sample.output, sigma)
    for box, dark in cells(sample):
        if dark:
            made[box.slices] = soft[box.slices]
    return made


def unsharp(sample: Sample, amount: float, rng: np.random.Generator) -> np.ndarray:
    return sample.output + amount * (sample.output - blurred(sample.output, 2))


def haloed(sample: Sample, amount: float, rng: np.random.Generator) -> np.ndarray:
    """An unsharp mask of one pixel of the input: at 2x its radius is 2 px."""
    scale = sample.output.shape[0] / sample.input.shape[0]
    return sample.output + amount * (sample.output - blurred(sample.output, scale))


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
    """A patch from elsewhere in the picture, mirrored; drawn until it isn't what was there (by VISIBLE, in 20 draws)."""
    made, part = sample.output.copy(), min(int(side), min(sample.output.shape[:2]) // 2)
    best = (-1.0, made[:0, :0], (0, 0))
    for _ in range(20):
        (y, v), (x, u) = (rng.integers(0, length - part, 2) for length in sample.output.shape[:2])
        patch = sample.output[v : v + part, u : u + part][:, ::-1]
        differs = float(np.abs(patch - sample.output[y : y + part, x : x + part]).mean())
        best = max(best, (differs, patch, (y, x)), key=lambda one: one[0])
        if differs >= VISIBLE:
            break
    _, patch, (y, x) = best
    made[y : y + part, x : x + part] = patch
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
    for i in rng.choice(len(boxes), min(int(count), len(boxes)), replace=False):
        made[boxes[i][0].slices] = 0
    return made


DEFECTS: dict[str, tuple[tuple[str, ...], Spoil, tuple[float, ...]]] = {
    "seam, levels": (("seam_tone",), toned, (1, 2, 5)),
    "seam, blur sigma": (("seam_sharpness",), blurred_tiles, (0.6, 0.8, 1.2)),
    "unsharp mask r2": (("oversharp",), unsharp, (0.5, 1, 2)),
    "halo, unsharp": (("halo",), haloed, (0.5, 1, 2)),
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


def limits(every: Sequence[Sample], preset: str | None) -> dict[str, float]:
    """Those of docs/checks.md, or of the preset where it has some."""
    own = {found.check: found.limit for one in every[:4] for found in check(one.output, one.input, one.tiles)}
    if preset is not None:
        settings = Config.load(preset).settings.check
        own |= Calibration.of_tables(settings.percentiles, settings.score_limit).limits() | settings.limits
    return own | dict.fromkeys(HARD, 0.0)


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The chance that a spoilt image has the larger value (ties count half)."""
    if not good or not bad:
        return float("nan")
    wins = np.subtract.outer(np.array(bad), np.array(good))
    return float(((wins > 0) + 0.5 * (wins == 0)).mean())


def above(values: Mapping[str, float], names: Sequence[str], limit: Mapping[str, float]) -> bool:
    return any(values[name] > limit[name] for name in names if name in values)


@dataclass(frozen=True)
class Judged:
    """The images of one scale: what each good one measures, by check."""

    samples: Sequence[Sample]
    good: Sequence[Mapping[str, float]]

    def found(self, kind: str, severity: float, limit: Mapping[str, float], every: int) -> str:
        """Recall, precision, AUC and abstentions of a defect put into every `every`-th image, as columns."""
        names, spoil, _ = DEFECTS[kind]
        bad = []
        for i, one in enumerate(self.samples):
            if i % every == 0:
                bad.append(measured(one, rounded(spoil(one, severity, np.random.default_rng(i))), names))
        judged = [values for values in bad if any(name in values for name in names)]
        recall = np.mean([above(values, names, limit) for values in judged] or [np.nan])
        false = np.mean([above(values, names, limit) for values in self.good])
        precision = recall / (recall + false) if recall + false else float("nan")
        areas = [auc([v[n] for v in self.good if n in v], [v[n] for v in bad if n in v]) for n in names]
        return f"{recall:11.2f}{precision:7.2f}{max(areas):6.2f}{len(bad) - len(judged):5}"


def flags(lot: Lot, good: Sequence[Mapping[str, float]], limit: Mapping[str, float]) -> list[bool]:
    """Which good images are flagged; prints their share, and by what."""
    hits = [[name for name in values if name in limit and values[name] > limit[name]] for values in good]
    which = {name: sum(name in hit for hit in hits) for name in sorted({n for hit in hits for n in hit})}
    name = lot.name + ("" if lot.good else " (grainy)")
    print(f"{name:22}{len(good):5} images, flagged {np.mean([bool(hit) for hit in hits]):6.1%}  {which or ''}")
    return [bool(hit) for hit in hits]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall, precision and AUC of the artifact checks.")
    parser.add_argument("folder", type=Path, help="what benchmarks/check_renders.py wrote")
    parser.add_argument("--set", default="judged", help="the set of pictures to judge on")
    parser.add_argument("--every", type=int, default=1, help="spoil every so many images")
    parser.add_argument("--middle", action="store_true", help="the middle severities only")
    parser.add_argument("--preset", help="a preset with a calibration")
    given = parser.parse_args()
    lots = {lot: samples(given.folder, lot) for lot in rendered(given.folder, given.set)}
    if not lots:
        parser.error(
            f"there are no {given.set} lots in {given.folder}: python -m benchmarks.check_renders {given.folder}"
        )
    limit = limits([one for each in lots.values() for one in each], given.preset)
    print("limits: " + ", ".join(f"{name} {limit[name]:.3g}" for name in sorted(limit)))
    good = {lot: [measured(one, one.output) for one in each] for lot, each in lots.items()}
    hits = {lot: flags(lot, values, limit) for lot, values in good.items()}
    counted = [hit for lot, each in hits.items() if lot.good for hit in each]
    print(f"{'all but grainy':22}{len(counted):5} images, flagged {np.mean(counted):6.1%}\n")
    lots = {lot: each for lot, each in lots.items() if lot.good}
    scales = sorted({lot.scale for lot in lots})
    judged = [
        Judged(
            [one for lot, each in lots.items() if lot.scale == scale for one in each],
            [one for lot in lots if lot.scale == scale for one in good[lot]],
        )
        for scale in scales
    ]
    head = "".join(f"{f'{scale}x recall':>11}  prec.   AUC  n/a" for scale in scales)
    print(f"{'defect':18}{'severity':>9}{head}")
    for kind, (_, _, severities) in DEFECTS.items():
        for severity in severities[1:2] if given.middle else severities:
            columns = "".join(one.found(kind, severity, limit, given.every) for one in judged)
            print(f"{kind:18}{severity:9g}{columns}", flush=True)


if __name__ == "__main__":
    main()
