"""`tilehires check`: the artifact checks on images that exist, ours or another tool's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tilehires.batch.discover import OURS
from tilehires.checks import Finding, check
from tilehires.errors import ExitCode, ImageError, RunError, TilehiresError
from tilehires.geometry import Box, Size
from tilehires.images import SUFFIXES, Isolated
from tilehires.report.document import load


@dataclass(frozen=True, slots=True)
class Pair:
    """An output and the image it was made from; `tiles` in output pixels, None where no grid is known."""

    output: Path
    input: Path
    tiles: tuple[Box, ...] | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the checks said about one output; `error` where they couldn't look."""

    output: Path
    input: Path | None
    findings: tuple[Finding, ...] = ()
    error: TilehiresError | None = None

    @property
    def flagged(self) -> bool:
        return any(finding.flags for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As `tilehires check --json` prints it."""
        findings = [{**asdict(f), "box": f.box.as_list() if f.box else None} for f in self.findings]
        return {
            "output": str(self.output),
            "input": str(self.input) if self.input else None,
            "flagged": self.flagged,
            "findings": findings,
            "error": {"message": self.error.message, "hint": self.error.hint} if self.error else None,
        }


def exit_code(inspected: Sequence[Inspected], *, strict: bool) -> ExitCode:
    """3 where an image couldn't be looked at, 4 where one is flagged under `strict`, else 0."""
    if any(one.error for one in inspected):
        return ExitCode.IMAGES_FAILED
    return ExitCode.FLAGGED if strict and any(one.flagged for one in inspected) else ExitCode.OK


def inspect(output: Path, against: Path | None, only: Sequence[str] = ()) -> Iterator[Inspected]:
    """Look at one output, or at all of a folder, one after the other.

    `against`: the input, or the folder of inputs, matched by their paths without the ending; None: what the report of
    the output folder says. Raises RunError when there is nothing to look at; what concerns one image is its `error`.
    """
    with Isolated() as decoder:
        for pair in _recorded(output) if against is None else _matched(output, against):
            if isinstance(pair, Inspected):
                yield pair
                continue
            try:
                after, before = decoder.read(pair.output).pixels, decoder.read(pair.input).pixels
                shown = in_frame(before, Size(after.shape[1], after.shape[0]))
                # What another tool did to the aspect can be told by the picture alone.
                if pair.tiles is not None or _unlike(after, shown) <= _unlike(after, before):
                    before = shown
                yield Inspected(pair.output, pair.input, tuple(check(after, before, pair.tiles, only=only)))
            except ImageError as error:
                yield Inspected(pair.output, pair.input, error=error)


def in_frame(before: np.ndarray, size: Size) -> np.ndarray:
    """The middle part of the input that an output of `size` shows, if it was made to cover that size and cropped.

    The input itself where the aspects agree to a pixel.
    """
    height, width = before.shape[:2]
    scale = max(size.width / width, size.height / height)
    shown_x, shown_y = size.width / scale, size.height / scale
    if abs(shown_x - width) * scale <= 2 and abs(shown_y - height) * scale <= 2:
        return before
    x0, y0 = round((width - shown_x) / 2), round((height - shown_y) / 2)
    return before[y0 : y0 + max(1, round(shown_y)), x0 : x0 + max(1, round(shown_x))]


def _unlike(one: np.ndarray, other: np.ndarray) -> float:
    """How far two pictures are from each other, both brought to one small size."""
    small = [cv2.resize(np.ascontiguousarray(p), (64, 64), interpolation=cv2.INTER_AREA) for p in (one, other)]
    return float(np.abs(small[0] - small[1]).mean())


def _matched(output: Path, against: Path) -> Iterator[Pair | Inspected]:
    for path in (output, against):
        if not path.exists():
            raise RunError(f"There is no {path}.", hint="Name an image, or a folder of images: tilehires check OUTPUT.")
    if output.is_file() != against.is_file():
        raise RunError(
            f"{output} and {against} are not of a kind.",
            hint="Give two images, or two folders whose images have the same names.",
        )
    if output.is_file():
        yield Pair(output, against)
        return
    inputs = _images(against)
    outputs = _images(output)
    if not outputs:
        raise RunError(f"There is no image in {output}.", hint="Name the folder that holds the finished images.")
    for name, paths in outputs.items():
        for path in paths:
            # Two inputs of one stem keep their ending in the output's name: photo.jpg.png.
            found = inputs.get(name) or [
                p for p in inputs.get(name.rpartition(".")[0], []) if _name(p, against) == name
            ]
            if len(found) == 1:
                yield Pair(path, found[0])
            else:
                problem = "several inputs have" if found else "no input has"
                hint = f"Look at it alone: tilehires check {path} --against IMAGE."
                yield Inspected(path, None, error=ImageError(f"{path}: {problem} its name in {against}.", hint=hint))


def _images(folder: Path) -> dict[str, list[Path]]:
    """Images under a folder by their relative path without the ending."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in SUFFIXES and path.is_file() and relative.parts[0] not in OURS:
            found.setdefault(relative.with_suffix("").as_posix(), []).append(path)
    return found


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _recorded(output: Path) -> Iterator[Pair | Inspected]:
    if output.is_file():
        raise RunError(
            f"Nothing says which image {output} was made from.",
            hint=f"Name it: tilehires check {output} --against IMAGE.",
        )
    report = load(output)
    inputs = output / "report" / str(report.get("run", {}).get("input_folder", ""))
    for image in report["images"]:
        if not image.get("output") or image["status"] != "done":
            continue
        path, source, first_pass = output / image["output"]["path"], image.get("input"), image.get("before")
        if source or first_pass:
            before = inputs / source["path"] if source else output / first_pass["path"]
            yield Pair(path, before, recorded_tiles(image))
        else:
            problem = ImageError(
                f"{path}: nothing says what it was made from.",
                hint="hires.keep_before = true keeps the first passes of pictures made from prompts.",
            )
            yield Inspected(path, None, error=problem)


def recorded_tiles(image: Mapping[str, Any]) -> tuple[Box, ...]:
    """The tiles of all passes of an image of report.json, in output pixels."""
    passes = [[Box(*box) for box in stage.get("facts", {}).get("tiles", ())] for stage in image.get("stages", ())]
    passes = [boxes for boxes in passes if boxes]
    width, height = image["output"]["size"]
    made: list[Box] = []
    for boxes in passes:
        if boxes is passes[-1]:
            made += boxes
            continue
        # An earlier pass saw the whole of what the last one's crop, in the middle, is a part of.
        reach_x, reach_y = max(box.x1 for box in boxes), max(box.y1 for box in boxes)
        factor = max(width / reach_x, height / reach_y)
        x, y = round((reach_x * factor - width) / 2), round((reach_y * factor - height) / 2)
        made += [box.scale(factor).shift(-x, -y).clip(Size(width, height)) for box in boxes]
    return tuple(box for box in made if box.width and box.height)
