"""The last stage: compare what came out with what went in. Changes no pixel; its findings are the result."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tilehires.checks import Finding, check, names
from tilehires.geometry import Box, Size
from tilehires.stages import Source, StageResult, Tools


class CheckSettings(BaseModel):
    """`only`: the checks to run, empty for all. `frame`: what of the source the output shows, `cropped` if not all of it.

    `target`: the size asked for.
    """

    model_config = ConfigDict(frozen=True)

    only: tuple[str, ...]
    target: Size
    frame: Box
    cropped: bool


class CheckStage:
    """Runs the installed checks, and compares the size with the one asked for."""

    name = "check"
    version = 1
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
        findings = check(image.pixels, before, only=only) if only else []
        target = self.settings.target
        if (width, height) != (target.width, target.height):
            message = f"The output is {width}x{height}; {target} was asked for."
            findings.append(Finding("size", "error", abs(width - target.width), 0, None, message))
        tools.progress.advance()
        return StageResult(image.pixels, {}, tuple(findings))
