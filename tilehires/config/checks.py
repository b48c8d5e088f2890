"""The settings of the artifact checks."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from tilehires.config.section import Section

PERCENTILES = (0, 10, 25, 50, 75, 90, 99)
"""Where a calibration's table says a check's values."""


class CheckSettings(Section):
    """Artifact checks on the finished image."""

    enabled: bool = Field(True, description="Run the checks.")
    action: Literal["report", "review", "retry"] = Field(
        "report",
        description=(
            "What is done about a flagged image. report: nothing more. review: its output is copied to review/flagged/ in the "
            "output folder. retry: it is made once more with 0.7 of its denoise and 1.5 of its overlap, and the better one by "
            "score is kept."
        ),
    )
    only: tuple[str, ...] = Field((), description="Names of the checks to run; empty: all.")
    limits: dict[str, float] = Field(
        {}, description="Limits of checks by their names; others have the calibration's, or else their own."
    )
    percentiles: dict[str, tuple[float, ...]] = Field(
        {},
        description=(
            "By check, its values at the percentiles 0, 10, 25, 50, 75, 90 and 99 of good images, as `tilehires calibrate` "
            "writes them. An image's score is the largest percentile of its own values."
        ),
    )
    score_limit: float = Field(
        98.0, gt=0, lt=100, description="The score above which an image is flagged, as `tilehires calibrate` writes it."
    )

    duplicates_detector: str | None = Field(
        None,
        description=(
            "The detector of the check on duplicated subjects, as in [[detail]]. Not set: that of the first detail pass; "
            'without any, and for "", the check abstains.'
        ),
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name, table in self.percentiles.items():
            if len(table) != len(PERCENTILES) or any(b < a for a, b in pairwise(table)) or table[-1] <= table[-2]:
                raise ValueError(f"percentiles of {name} must be {len(PERCENTILES)} rising numbers")
        return self
