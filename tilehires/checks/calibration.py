"""Image scores and limits that flag 2 % of good images in all, from what the checks measured on a calibration run.

Twelve checks at 2 % each would flag 20 %. So every value becomes a percentile of its check's values in that run, an image's
score is the largest of its percentiles, and the limit on the score is the 98th percentile of the run's own scores: each
check's limit is the value that has that percentile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tilehires.checks.finding import Finding
from tilehires.config.checks import PERCENTILES

BODY = 90  # above this percentile the values' tail is taken as exponential, so that no percentile saturates at 100
HIGHEST = 99.9999  # of a limit: above it there must be room for a score
_DECADE = float(np.log(10))  # from 90 to 99 % an exponential tail grows by this many of its mean excesses


@dataclass(frozen=True)
class Distribution:
    """One check's values in the run: a table of them at PERCENTILES. The last entry, at 99 %, says how long the tail is."""

    table: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Raises ValueError when there is no value."""
        known = np.asarray(values, np.float64)
        if not len(known):
            raise ValueError("a distribution of no values")
        body = np.percentile(known, PERCENTILES[:-1])
        above = known[known > body[-1]] - body[-1]
        # Where all values are alike a millionth of them still makes a scale.
        excess = float(above.mean()) if len(above) else max(abs(float(body[-1])), 1.0) * 1e-6
        return cls((*body.tolist(), float(body[-1]) + excess * _DECADE))

    @property
    def excess(self) -> float:
        """The mean excess over the 90th percentile."""
        return (self.table[-1] - self.table[-2]) / _DECADE

    def percentile(self, value: float) -> float:
        """0 to 100: the share of the run's values below `value`, continued beyond the 90th."""
        if value > self.table[-2]:
            return 100 - (100 - BODY) * float(np.exp(-(value - self.table[-2]) / self.excess))
        if value <= self.table[0]:
            return 0.0
        return float(np.interp(value, self.table[:-1], PERCENTILES[:-1]))

    def value_at(self, percentile: float) -> float:
        """The value of a percentile; the inverse of `percentile`."""
        if percentile > BODY:
            return self.table[-2] + self.excess * float(np.log((100 - BODY) / (100 - percentile)))
        return float(np.interp(percentile, PERCENTILES[:-1], self.table[:-1]))


@dataclass(frozen=True)
class Calibration:
    """What good images measure: by check its distribution, and the score (0 to 100) above which an image is flagged."""

    known: Mapping[str, Distribution] = field(default_factory=dict)
    score_limit: float = 98.0

    @classmethod
    def of_tables(cls, tables: Mapping[str, Sequence[float]], score_limit: float) -> Calibration:
        """From a preset's check.percentiles and check.score_limit."""
        return cls({name: Distribution(tuple(table)) for name, table in tables.items()}, score_limit)

    def limits(self) -> dict[str, float]:
        """By check, the value that has the percentile `score_limit`."""
        return {name: distribution.value_at(self.score_limit) for name, distribution in self.known.items()}

    def score(self, findings: Sequence[Finding]) -> float | None:
        """The largest percentile of the findings' values; 100 where something flags that has no distribution.

        None where nothing was measured that has one: there is no score without a calibration.
        """
        if any(
            one.severity == "error" or (one.flags and self.known and one.check not in self.known) for one in findings
        ):
            return 100.0
        percentiles = [
            self.known[one.check].percentile(one.value)
            for one in findings
            if one.value is not None and one.check in self.known
        ]
        return round(max(percentiles), 4) if percentiles else None


def calibrate(runs: Sequence[Mapping[str, float]], *, flagged: float = 0.02) -> Calibration:
    """The calibration at which the share `flagged` of the run's images has a score above the limit.

    `runs`: for each good image its measured values by check; what abstained is left out.
    """
    names = sorted({name for values in runs for name in values})
    known = {name: Distribution.of([values[name] for values in runs if name in values]) for name in names}
    scores = [max((known[name].percentile(value) for name, value in values.items()), default=0.0) for values in runs]
    if not known:
        return Calibration()
    # Where images are all alike, hardly a score is above 0, and what is no different must not be flagged either.
    return Calibration(known, float(np.clip(np.quantile(scores, 1 - flagged), BODY, HIGHEST)))
