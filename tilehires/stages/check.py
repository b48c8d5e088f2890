"""The last stage: compare what came out with what went in. Changes no pixel; its findings are the result."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tilehires.checks import Finding, check, names
from tilehires.checks.calibration import Calibration
from tilehires.checks.finding import relimited
from tilehires.geometry import Box, Size
from tilehires.stages import Source, StageResult, Tools


class CheckSettings(BaseModel):
    """`only`: the checks to run, empty for all. `frame`: what of the source the output shows, `cropped` if not all of it.

    `target`: the size asked for. `passes`: the names of the tiled passes and the sizes they made; `crop`: the part of the
    last one's that left it. `limits`, `percentiles`, `score_limit`: as the settings of the same names.
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


class CheckStage:
    """Runs the installed checks, and compares the size with the one asked for."""

    name = "check"
    version = 4
    models: tuple[Path, ...] = ()
    makes_pixels = False

    def __init__(self, settings: CheckSettings) -> None:
        self.settings = settings

    def run(self, image: StageResult, source: Source, tools: Tools) -> StageResult:
        tools.progress.begin("check", 1)
        height, width = image.pixels.shape[:2]
        before = source.pixels[self.settings.frame.slices]
        only = self.settings.only or names()
        if self.settings.cropped:
            # A crop shows parts of source pixels, so the aspects differ a little; the exact size is compared below anyway.
            only = tuple(name for name in only if name != "size")
        findings = check(image.pixels, before, self._tiles(source), only=only) if only else []
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
