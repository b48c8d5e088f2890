"""Limits that flag 2 % of good images in all, from what the checks measured on a calibration run.

Twelve checks at 2 % each would flag 20 %. So every value becomes a percentile of its check's values in that run, an image's
score is the largest of its percentiles, and the limit on the score is the 98th percentile of the run's own scores: each
check's limit is the value that has that percentile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BODY = 0.9  # above this quantile the values' tail is taken as exponential, so that no percentile saturates at 100


@dataclass(frozen=True)
class Distribution:
    """One check's values in the run: sorted, with the mean excess over their 90 % quantile."""

    values: tuple[float, ...]
    edge: float
    excess: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Raises ValueError when there is no value."""
        ordered = np.sort(np.asarray(values, np.float64))
        if not len(ordered):
            raise ValueError("a distribution of no values")
        edge = float(np.quantile(ordered, BODY))
        above = ordered[ordered > edge] - edge
        # Where all values are alike a millionth of them still makes a scale.
        return cls(tuple(ordered.tolist()), edge, float(above.mean()) if len(above) else max(abs(edge), 1.0) * 1e-6)

    def percentile(self, value: float) -> float:
        """0 to 100: the share of the run's values below `value`, continued beyond the 90 % quantile."""
        if value > self.edge:
            return 100 * (1 - (1 - BODY) * float(np.exp(-(value - self.edge) / self.excess)))
        return 100 * min(BODY, float(np.searchsorted(self.values, value)) / len(self.values))

    def value_at(self, percentile: float) -> float:
        """The value of a percentile; the inverse of `percentile`."""
        if percentile > 100 * BODY:
            return self.edge + self.excess * float(np.log((1 - BODY) / (1 - percentile / 100)))
        return float(np.quantile(self.values, percentile / 100))


def limits(runs: Sequence[Mapping[str, float]], *, flagged: float = 0.02) -> dict[str, float]:
    """By check, the limit at which the share `flagged` of the run's images has a value above one of the limits.

    `runs`: for each good image its measured values by check; what abstained is left out.
    """
    names = sorted({name for values in runs for name in values})
    known = {name: Distribution.of([values[name] for values in runs if name in values]) for name in names}
    scores = [max((known[name].percentile(value) for name, value in values.items()), default=0.0) for values in runs]
    if not scores:
        return {}
    limit = float(np.quantile(scores, 1 - flagged))
    return {name: distribution.value_at(limit) for name, distribution in known.items()}
