"""Scores and limits from a run of good images: they flag the share asked for in all, whatever the number of checks."""

from __future__ import annotations

import numpy as np
import pytest

from tilehires.checks.calibration import Calibration, Distribution, calibrate
from tilehires.checks.finding import Finding, abstained, measured


def run(images: int, checks: int, seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    return [{f"c{i}": float(v) for i, v in enumerate(rng.gamma(2, 1 + np.arange(checks)))} for _ in range(images)]


def flagged(images: list[dict[str, float]], known: dict[str, float]) -> float:
    return float(np.mean([any(value > known[name] for name, value in image.items()) for image in images]))


@pytest.mark.parametrize("checks", [1, 12])
def test_the_share_asked_for_is_flagged_in_all(checks: int) -> None:
    calibration = calibrate(run(400, checks, 0))
    known = calibration.limits()
    assert flagged(run(400, checks, 0), known) == pytest.approx(0.02, abs=0.003)
    assert flagged(run(3000, checks, 1), known) < 0.05, "and about as many of other good images"
    each = [np.mean([image[name] > limit for image in run(400, checks, 0)]) for name, limit in known.items()]
    assert max(each) <= 0.021


def test_a_percentile_and_its_value_are_inverse_and_never_saturate() -> None:
    known = Distribution.of(np.random.default_rng(0).gamma(2, 1, 200).tolist())
    for percentile in (91.0, 97.5, 99.9):
        assert known.percentile(known.value_at(percentile)) == pytest.approx(percentile)
    assert known.percentile(known.value_at(50)) == pytest.approx(50)
    assert known.percentile(8.0) < known.percentile(12.0) < 100
    assert known.percentile(-1) == 0


def test_what_abstained_everywhere_has_no_limit_and_equal_values_do_no_harm() -> None:
    assert calibrate([]).limits() == {} and calibrate([{}, {}]).limits() == {}
    known = calibrate([{"a": 1.0}] * 50).limits()
    assert known["a"] == pytest.approx(1.0, abs=1e-4)


def test_a_score_is_the_largest_percentile_and_flags_where_it_is_above_the_limit() -> None:
    known = calibrate(run(400, 2, 0))
    for values in run(200, 2, 1):
        findings = [measured(name, value, known.limits()[name], None, "") for name, value in values.items()]
        score = known.score([*findings, abstained("c9", 0, "nothing")])
        assert score is not None and score == pytest.approx(
            max(known.known[name].percentile(v) for name, v in values.items()), abs=1e-4
        )
        assert any(finding.flags for finding in findings) == (score > known.score_limit)
    same = Calibration.of_tables({name: one.table for name, one in known.known.items()}, known.score_limit)
    assert same.limits() == known.limits(), "a preset's tables say all of it"


def test_hard_failures_score_100_and_without_a_calibration_there_is_no_score() -> None:
    known = calibrate(run(50, 1, 0))
    good, black = measured("c0", 0.1, 9, None, ""), Finding("black", "error", 1, 0, None, "")
    twice = Finding("duplicates", "warning", 1, 0, None, "")
    assert known.score([good, black]) == known.score([good, twice]) == Calibration().score([black]) == 100
    assert Calibration().score([good]) is None and known.score([abstained("c0", 0, "nothing")]) is None
