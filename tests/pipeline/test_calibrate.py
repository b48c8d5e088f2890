"""`tilehires calibrate`: from finished runs to a preset that `run` uses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batches import FAST, Workplace, draw, workplace
from tilehires.batch.calibration import FEWEST
from tilehires.checks.finding import Finding, relimited
from tilehires.errors import ExitCode


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def report(folder: Path, images: int) -> Path:
    """A run's report with that many good images; halo abstained in half of them."""
    rng = np.random.default_rng(0)

    def finding(check: str, value: float | None, severity: str = "info") -> dict[str, Any]:
        return {"check": check, "severity": severity, "value": value, "limit": 9, "box": None, "message": ""}

    body = [
        {
            "id": f"{i}.png",
            "status": "done",
            "findings": [
                finding("halo", None if i % 2 else float(rng.gamma(2, 0.01))),
                finding("soft", float(rng.gamma(2, 0.02))),
                finding("black", 3, "error"),
            ],
        }
        for i in range(images)
    ]
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps({"version": 1, "run": {}, "summary": {}, "images": body}))
    return folder


def test_a_run_of_good_images_makes_a_preset(place: Workplace) -> None:
    first, second = report(place.root / "a", 60), report(place.root / "b", 60)
    made = place.root / "mine.toml"
    ended = place.command("calibrate", first, second, "-o", made)
    assert ended.code == ExitCode.OK and "120 images" in ended.out, ended
    values = tomllib.loads(made.read_text())
    assert values["extends"] == "default" and set(values["check"]["percentiles"]) == {"halo", "soft"}, values
    assert 97 < values["check"]["score_limit"] < 100
    assert 0.02 < values["check"]["percentiles"]["halo"][-1] < 0.2
    assert place.command("config", "show", "-c", made).code == ExitCode.OK


def test_values_that_are_all_alike_make_a_preset_too(place: Workplace) -> None:
    folder = report(place.root / "a", FEWEST)
    path = folder / "report" / "report.json"
    body = json.loads(path.read_text())
    for image in body["images"]:
        image["findings"] = [{**image["findings"][1], "check": "oversharp", "value": 1.0}]
    path.write_text(json.dumps(body))
    made = place.root / "mine.toml"
    assert place.command("calibrate", folder, "-o", made).code == ExitCode.OK
    ended = place.command("config", "show", "-c", made)
    assert ended.code == ExitCode.OK, ended


def test_a_preset_to_extend_that_is_not_there_is_refused_before_anything_is_written(place: Workplace) -> None:
    made = place.root / "mine.toml"
    ended = place.command("calibrate", report(place.root / "a", FEWEST), "-o", made, "--extends", "nonsense")
    assert ended.code == ExitCode.USAGE and "nonsense" in ended.err and not made.exists()
    (place.root / "base.toml").write_text("")
    again = place.command("calibrate", place.root / "a", "-o", made, "--extends", "base.toml")
    assert again.code == ExitCode.OK and place.command("config", "show", "-c", made).code == ExitCode.OK


def test_too_few_images_are_refused(place: Workplace) -> None:
    ended = place.command("calibrate", report(place.root / "a", FEWEST - 1))
    assert ended.code == ExitCode.USAGE and str(FEWEST) in ended.err
    assert place.command("calibrate", place.root / "nothing").code == ExitCode.USAGE


def test_a_limit_of_a_preset_decides_and_redoes_only_the_check(place: Workplace) -> None:
    draw(place.input / "a.png", 96, 96)
    assert "0 flagged" in place.run(*FAST, "--set", "check.limits={soft = 0.9}").out
    assert "1 flagged" in place.run(*FAST, "--set", "check.limits={soft = 0.0001}").out
    assert place.cached_stages("a.png")["hires"]
    (found,) = [one for one in place.images()["a.png"]["findings"] if one["check"] == "soft"]
    assert found["limit"] == 0.0001 and found["severity"] == "warning"


def test_a_preset_gives_every_image_its_score(place: Workplace) -> None:
    draw(place.input / "a.png", 96, 96)
    table = "check.percentiles={soft = [0.0, 0.00001, 0.00002, 0.00003, 0.00004, 0.00005, 0.00006]}"
    assert "1 flagged" in place.run(*FAST, "--set", table).out
    image = place.images()["a.png"]
    (found,) = [one for one in image["findings"] if one["check"] == "soft"]
    assert image["score"] > 99 and found["severity"] == "warning" and 0.00005 < found["limit"] < 0.00006
    assert "0 flagged" in place.run(*FAST, "--set", table, "--set", "check.limits={soft = 0.9}").out
    assert place.images()["a.png"]["score"] == image["score"], "a limit of one's own changes no score"
    ended = place.run(*FAST, "--set", "check.percentiles={soft = [1, 2]}")
    assert ended.code == ExitCode.USAGE and "7 rising numbers" in ended.err, ended


def test_hard_failures_and_abstentions_keep_what_they_are() -> None:
    hard = Finding("black", "error", 3, 0, None, "")
    absent = Finding("halo", "info", None, 0.06, None, "n/a")
    assert relimited(hard, {"black": 99}) == hard and relimited(absent, {"halo": 0.01}) == absent
    assert relimited(Finding("halo", "warning", 0.07, 0.06, None, ""), {"halo": 0.08}).severity == "info"
