"""Which detections are repaired, in which order, and what becomes of the others. Every one of them has a fate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tilehires.config.detail import DetailPass
from tilehires.detectors import Detection
from tilehires.geometry import Box, Size
from tilehires.stages.route import Route

REPAIRED = "repaired"
POINTS = 48  # corners of a mask's outline in the report, at most


@dataclass(frozen=True, eq=False)
class Region:
    """One detection in pixels of the image that is worked on. `fate`: "" while it is to be repaired, else what became of it.

    `mask`: float32 in [0, 1] over `place`, hard-edged; `place` holds the box and whatever the mask grew beyond it.
    """

    kind: str
    box: Box
    score: float
    mask: NDArray[np.float32]
    place: Box
    fate: str = ""

    def to_json(self, stage: str) -> dict[str, object]:
        """As in a stage's facts: boxes and outline in pixels of the stage's image."""
        return {
            "kind": self.kind,
            "box": self.box.as_list(),
            "score": round(self.score, 4),
            "fate": self.fate,
            "stage": stage,
            "outline": _outline(self.mask, self.place),
        }


def moved(found: Detection, factor: tuple[float, float], shift: tuple[int, int], size: Size) -> Detection | None:
    """A detection of the input in an image whose pixels are `factor` (across, down) as many, less a crop's corner.

    None where nothing of it is inside of `size`.
    """
    (fx, fy), (dx, dy) = factor, shift
    whole = Box(
        int(np.floor(found.box.x0 * fx)) - dx,
        int(np.floor(found.box.y0 * fy)) - dy,
        int(np.ceil(found.box.x1 * fx)) - dx,
        int(np.ceil(found.box.y1 * fy)) - dy,
    )
    box = whole.clip(size)
    if not (box.width and box.height):
        return None
    mask = found.mask
    if mask is not None:
        full = cv2.resize(mask.astype(np.float32), (whole.width, whole.height), interpolation=cv2.INTER_LINEAR) > 0.5
        mask = full[box.shift(-whole.x0, -whole.y0).slices]
    return replace(found, box=box, mask=mask)


def chosen(found: Sequence[Detection], settings: DetailPass, size: Size) -> tuple[Region, ...]:
    """All detections as regions, in the order of their repair; those that aren't repaired carry their fate, and come last."""
    regions = [_region(one, settings, size) for one in found]
    open_, closed = _parted(regions, lambda region: _unfit(region, settings, size))
    if settings.largest:
        key = _area if settings.filter == "area" else _score
        ranked = sorted(open_, key=lambda region: (-key(region), region.box))
        kept = ranked[: settings.largest]
        closed += [
            replace(r, fate=f"not among the {settings.largest} by {settings.filter}") for r in ranked[len(kept) :]
        ]
        open_ = [region for region in open_ if any(region is one for one in kept)]
    open_ = _sorted(open_, settings.sort, size)
    if settings.merge != "none" and open_:
        merged = _merged(open_, settings, size)
        open_, joined = [merged], [replace(region, fate=f"repaired as one ({settings.merge})") for region in open_]
        closed = joined + closed
        if not merged.mask.any():
            open_, closed = [], [*closed, replace(merged, fate="empty mask")]
    return (*open_, *closed)


def _parted(regions: Iterable[Region], unfit) -> tuple[list[Region], list[Region]]:  # noqa: ANN001
    kept, closed = [], []
    for region in regions:
        fate = unfit(region)
        (closed.append(replace(region, fate=fate)) if fate else kept.append(region))
    return kept, closed


def _unfit(region: Region, settings: DetailPass, size: Size) -> str:
    ratio = region.box.width * region.box.height / size.pixels
    if region.score < settings.confidence:
        return f"below confidence ({region.score:.2f} of {settings.confidence:g})"
    if min(region.box.width, region.box.height) < settings.drop_size:
        return f"too small ({region.box.size}, drop_size {settings.drop_size})"
    if ratio < settings.min_ratio:
        return f"too small ({ratio:.4f} of the image, min_ratio {settings.min_ratio:g})"
    if ratio > settings.max_ratio:
        return f"too large ({ratio:.4f} of the image, max_ratio {settings.max_ratio:g})"
    if not region.mask.any():
        return "empty mask"
    return ""


def _region(found: Detection, settings: DetailPass, size: Size) -> Region:
    """The mask shifted, then grown or shrunk, as ADetailer orders it; its box stays the detection's."""
    grown = abs(settings.dilate)
    place = found.box.shift(settings.x_offset, -settings.y_offset).pad(grown + 1)
    mask = np.zeros((place.height, place.width), np.uint8)
    inner = (
        np.ones((found.box.height, found.box.width), np.uint8) if found.mask is None else found.mask.astype(np.uint8)
    )
    mask[grown + 1 : -grown - 1, grown + 1 : -grown - 1] = inner
    if grown:
        kernel = np.ones((2 * grown + 1, 2 * grown + 1), np.uint8)
        mask = np.asarray(cv2.dilate(mask, kernel) if settings.dilate > 0 else cv2.erode(mask, kernel))
    inside = place.clip(size)
    cut = inside.shift(-place.x0, -place.y0)
    return Region(found.kind, found.box, found.score, mask[cut.slices].astype(np.float32), inside)


def _area(region: Region) -> float:
    return region.box.width * region.box.height


def _score(region: Region) -> float:
    return region.score


def _sorted(regions: list[Region], order: str, size: Size) -> list[Region]:
    def to_centre(region: Region) -> float:
        x, y = (region.box.x0 + region.box.x1) / 2, (region.box.y0 + region.box.y1) / 2
        return (x - size.width / 2) ** 2 + (y - size.height / 2) ** 2

    keys = {
        "left_to_right": lambda region: (region.box.x0, region.box.y0),
        "centre_to_edge": lambda region: (to_centre(region), region.box),
        "large_to_small": lambda region: (-_area(region), region.box),
    }
    return sorted(regions, key=keys[order]) if order in keys else regions


def _merged(regions: Sequence[Region], settings: DetailPass, size: Size) -> Region:
    """All masks as one region; inverted: everything but them."""
    if settings.merge == "invert":
        whole = np.ones((size.height, size.width), np.float32)
        for region in regions:
            target = whole[region.place.slices]
            np.minimum(target, 1 - region.mask, out=target)
        box = Box.of(size)
        return Region("all but " + regions[0].kind, box, min(r.score for r in regions), whole, box)
    place = Box.around(*(region.place for region in regions))
    mask = np.zeros((place.height, place.width), np.float32)
    for region in regions:
        target = mask[region.place.shift(-place.x0, -place.y0).slices]
        np.maximum(target, region.mask, out=target)
    return Region(regions[0].kind, place, min(r.score for r in regions), mask, place)


def _outline(mask: NDArray[np.float32], place: Box) -> list[list[int]]:
    """The largest part's outline as points, for the report."""
    if not mask.any():
        return []
    found, _ = cv2.findContours((mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return []
    contour = max(found, key=cv2.contourArea)
    tolerance = 1.0
    points = contour
    while len(points) > POINTS:
        points, tolerance = cv2.approxPolyDP(contour, tolerance, True), tolerance * 1.5
    return [[int(x) + place.x0, int(y) + place.y0] for x, y in np.asarray(points).reshape(-1, 2)]


def placed(box: Box, factor: tuple[float, float], shift: tuple[int, int]) -> Box:
    """A box of one step's picture in a later one's pixels."""
    x0, y0, x1, y1 = box.as_list()
    return Box(
        round(x0 * factor[0]) - shift[0],
        round(y0 * factor[1]) - shift[1],
        round(x1 * factor[0]) - shift[0],
        round(y1 * factor[1]) - shift[1],
    )


def output_regions(facts: Mapping[str, Any], name: str, route: Route) -> list[dict[str, Any]]:
    """A stage's regions in pixels of the output, whatever steps came after it."""
    step, last = route.steps[0] if name == "detail.hires" else route.steps[-1], route.steps[-1]
    if step is last or "regions" not in facts:
        return list(facts.get("regions", ()))
    factor = (last.size.width / step.size.width, last.size.height / step.size.height)
    shift = (last.crop.x0, last.crop.y0)
    moved_ = []
    for region in facts.get("regions", ()):
        corners = [placed(Box(x, y, x, y), factor, shift) for x, y in region["outline"]]
        box = placed(Box(*region["box"]), factor, shift)
        moved_.append({**region, "box": box.as_list(), "outline": [[corner.x0, corner.y0] for corner in corners]})
    return moved_


def denoise_of(one: DetailPass, region: Region, size: Size) -> float:
    """ADetailer's dynamic denoise: strength × (1 − box ÷ image)^power, kept within [0, 1]."""
    share = region.box.width * region.box.height / size.pixels
    if one.dynamic_denoise == 0 or share >= 1:
        return one.denoise
    return min(1.0, one.denoise * (1 - share) ** one.dynamic_denoise)
