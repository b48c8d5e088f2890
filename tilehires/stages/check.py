"""The last stage: compare what came out with what went in. Changes no pixel; its findings are the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from tilehires.checks import Finding, check, names
from tilehires.checks.calibration import Calibration
from tilehires.checks.duplicates import duplicates
from tilehires.checks.finding import abstained, relimited
from tilehires.detectors import DetectorFile
from tilehires.geometry import Box, Size
from tilehires.stages import Less, Source, StageResult, Tools
from tilehires.stages.looking import DetectorFailedError, looked_for
from tilehires.stages.regions import placed


class CheckSettings(BaseModel):
    """`only`: the checks to run, empty for all. `frame`: what of the source the output shows, `cropped` if not all of it.

    `target`: the size asked for. `passes`: the names of the tiled passes and the sizes they made; `crop`: the part of the
    last one's that left it. `limits`, `percentiles`, `score_limit`: as the settings of the same names. `weights`, `classes`,
    `confidence`: the detector's that looks for duplicated subjects.
    """

    model_config = ConfigDict(frozen=True)

    only: tuple[str, ...]
    target: Size
    frame: Box
    cropped: bool
    limits: dict[str, float] = {}
    percentiles: dict[str, tuple[float, ...]] = {}
    score_limit: float = 98.0
    passes: tuple[tuple[str, Size], ...] = ()
    crop: Box | None = None
    weights: str = ""
    classes: tuple[str, ...] = ()
    confidence: float = 0.0


class CheckStage:
    """Runs the installed checks, and compares the size with the one asked for."""

    name = "check"
    version = 6
    makes_pixels = False

    def __init__(self, settings: CheckSettings, detector: DetectorFile | None = None, *, on_cpu: bool = False) -> None:
        """`on_cpu`: the detector isn't brought to the device."""
        self.settings, self.detector, self._on_cpu = settings, detector, on_cpu

    @property
    def models(self) -> tuple[Path, ...]:
        return self.detector.files if self.detector else ()

    def smaller(self, part: str) -> Less | None:
        """See `Shrinking`: the detector works on the CPU."""
        if part != "detector" or self._on_cpu:
            return None
        return Less(CheckStage(self.settings, self.detector, on_cpu=True), "detector on the CPU")

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        tools.progress.begin("check", 1)
        height, width = image.pixels.shape[:2]
        before = source.pixels[self.settings.frame.slices]
        only = self.settings.only or names()
        if self.settings.cropped:
            # A crop shows parts of source pixels, so the aspects differ a little; the exact size is compared below anyway.
            only = tuple(name for name in only if name != "size")
        findings = check(image.pixels, before, self._tiles(source), only=only) if only else []
        if self.detector and "duplicates" in only:
            twice = self._duplicates(image.pixels, before, self.detector, tools)
            findings = [one for found in findings for one in (twice if found.check == "duplicates" else [found])]
        known = Calibration.of_tables(self.settings.percentiles, self.settings.score_limit)
        limits = known.limits() | self.settings.limits
        findings = [relimited(finding, limits) for finding in findings]
        target = self.settings.target
        if (width, height) != (target.width, target.height):
            message = f"The output is {width}x{height}; {target} was asked for."
            findings.append(Finding("size", "error", abs(width - target.width), 0, None, message))
        tools.progress.advance()
        score = known.score(findings)
        return StageResult(image.pixels, {} if score is None else {"score": score}, tuple(findings))

    def _duplicates(self, output: np.ndarray, input: np.ndarray, detector: DetectorFile, tools: Tools) -> list[Finding]:
        """The check with what the detector finds. Of the input what is half as sure counts too: it was there before."""
        least = self.settings.confidence
        try:
            after, before = looked_for(detector, [(output, least), (input, least / 2)], tools.bay, on_cpu=self._on_cpu)
        except DetectorFailedError as error:
            return [abstained("duplicates", 0, str(error))]
        height, width = output.shape[:2]
        factor = (width / input.shape[1], height / input.shape[0])
        boxes = [placed(one.box, factor, (0, 0)) for one in before]
        return duplicates(output, input, detections=([one.box for one in after], boxes))

    def _tiles(self, source: Source) -> list[Box]:
        """The tiles of every pass in output pixels: a seam of the first one is a seam of the last one's picture."""
        s, made = self.settings, []
        for name, size in s.passes:
            boxes = [Box(*box) for box in source.facts.get(name, {}).get("tiles", ())]
            if name != s.passes[-1][0] and s.crop is not None:
                factor = s.passes[-1][1].width / size.width
                boxes = [box.scale(factor).shift(-s.crop.x0, -s.crop.y0).clip(s.target) for box in boxes]
            made += [box for box in boxes if box.width and box.height]
        return made
