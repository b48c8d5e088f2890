"""Limits from a run of good images: they flag the share asked for in all, whatever the number of checks."""

from __future__ import annotations

import numpy as np
import pytest

from tilehires.checks.calibration import Distribution, limits


def run(images: int, checks: int, seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    return [{f"c{i}": float(v) for i, v in enumerate(rng.gamma(2, 1 + np.arange(checks)))} for _ in range(images)]


def flagged(images: list[dict[str, float]], known: dict[str, float]) -> float:
    return float(np.mean([any(value > known[name] for name, value in image.items()) for image in images]))


@pytest.mark.parametrize("checks", [1, 12])
def test_the_share_asked_for_is_flagged_in_all(checks: int) -> None:
    known = limits(run(400, checks, 0))
    assert flagged(run(400, checks, 0), known) == pytest.approx(0.02, abs=0.003)
    assert flagged(run(3000, checks, 1), known) < 0.05, "and about as many of other good images"
    each = [np.mean([image[name] > limit for image in run(400, checks, 0)]) for name, limit in known.items()]
    assert max(each) <= 0.021


def test_a_percentile_and_its_value_are_inverse_and_never_saturate() -> None:
    known = Distribution.of(np.random.default_rng(0).gamma(2, 1, 200).tolist())
    for percentile in (91.0, 97.5, 99.9):
        assert known.percentile(known.value_at(percentile)) == pytest.approx(percentile)
    far = known.values[-1] * 1.5
    assert known.percentile(known.values[-1]) < known.percentile(far) < 100
    assert known.percentile(-1) == 0


def test_what_abstained_everywhere_has_no_limit_and_equal_values_do_no_harm() -> None:
    assert limits([]) == {} and limits([{}, {}]) == {}
    known = limits([{"a": 1.0}] * 50)
    assert known["a"] == pytest.approx(1.0, abs=1e-4)
