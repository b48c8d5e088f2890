"""Suites, baselines and verdicts, without a model: upscaling alone renders in tenths of a second."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.batches import draw
from tilehires.cli import main
from tilehires.errors import ConfigError
from tilehires.regress import compare as comparing
from tilehires.regress import results
from tilehires.regress.compare import METRICS, Metric, compare
from tilehires.regress.suite import load
from tilehires.regress.verdict import Result, code_of

FAST = '[case.set]\n"hires.denoise" = 0\n"hires.upscaler" = "Lanczos"\n'


def suite_of(folder: Path, *names: str, more: str = "") -> Path:
    draw(folder / "photo.png", 24, 16)
    path = folder / "suite.toml"
    path.write_text("".join(f'[[case]]\nname = "{n}"\ninput = "photo.png"\n{FAST}\n' for n in names) + more)
    return path


def cli(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["regress", *map(str, words)])
    return int(ended.value.code or 0)


def approved(folder: Path, *names: str) -> Path:
    path = suite_of(folder, *names)
    assert cli("approve", path, "--reason", "as it should be", "--renders", "2") == 0
    return path


def test_a_missing_baseline_is_an_exit_code_of_its_own_and_is_never_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = suite_of(tmp_path, "a")
    assert cli("run", path) == 3
    assert "Nothing has been approved for a yet" in capsys.readouterr().out
    assert not (tmp_path / "baselines").exists()
    assert (tmp_path / "suite.results" / "images" / "a.new.png").is_file(), "what is to be approved can be looked at"
    assert cli("run", path) == 3


def test_an_approved_suite_passes_and_says_who_approved_it(tmp_path: Path) -> None:
    path = approved(tmp_path, "a", "b")
    assert cli("run", path) == 0
    baseline = json.loads(next((tmp_path / "baselines" / "a").glob("*.json")).read_text())
    (entry,) = baseline["history"]
    assert entry["reason"] == "as it should be"
    assert entry["who"]
    assert cli("approve", path, "--reason", "again", "--renders", "2", "--filter", "a") == 0
    baseline = json.loads(next((tmp_path / "baselines" / "a").glob("*.json")).read_text())
    assert [e["change"] for e in baseline["history"]] == ["first baseline of this environment", "same pixels as before"]


def test_a_drift_is_a_regression_with_pictures_junit_and_figures(tmp_path: Path) -> None:
    path = approved(tmp_path, "a")
    path.write_text(path.read_text().replace('"hires.upscaler" = "Lanczos"', '"hires.upscaler" = "Nearest"'))
    assert cli("run", path) == 1
    folder = tmp_path / "suite.results"
    (row,) = json.loads((folder / "results.json").read_text())["cases"]
    assert row["status"] == "regression"
    assert row["changed_settings"]["hires.upscaler"] == ["Lanczos", "Nearest"]
    assert sorted(row["images"]) == ["difference", "new", "reference"]
    case = ElementTree.parse(folder / "junit.xml").getroot().find(".//testcase")
    assert case is not None
    told = (case.findtext("failure") or "").splitlines()
    assert told[0].startswith("beyond the limit: ") and "hires.upscaler: Lanczos when approved, Nearest now" in told
    assert any(re.fullmatch(r"density: 0\.\d+, limit 0\.02", line) for line in told), told
    names = {p.get("name") for p in case.iter("property")}
    assert {"ssim", "ssim.limit", "density", "environment"} <= names
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert not re.search(r"(src|href)=.https?:", page), "the page needs a network"
    (folder / "index.html").unlink()
    assert cli("report", path) == 0
    assert (folder / "index.html").read_text() == page


@pytest.mark.parametrize("damage", ["json", "png", "version", "swapped", "gone"])
def test_a_damaged_baseline_is_never_a_silent_pass(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = approved(tmp_path, "a")
    record = next((tmp_path / "baselines" / "a").glob("*.json"))
    picture = record.with_suffix(".png")
    if damage == "json":
        record.write_text("{")
    elif damage == "png":
        picture.write_bytes(picture.read_bytes()[:200])
    elif damage == "version":
        record.write_text(record.read_text().replace('"version": 1', '"version": 99'))
    elif damage == "swapped":
        draw(picture, 48, 32, seed=3)
    else:
        picture.unlink()
    assert cli("run", path) == 3
    assert "restore" in capsys.readouterr().out.lower() or damage == "version"


def test_a_baseline_made_elsewhere_counts_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = approved(tmp_path, "a")
    for file in list((tmp_path / "baselines" / "a").iterdir()):
        file.rename(file.with_name("cuda-float16-torch2.6-0123456789ab" + file.suffix))
    assert cli("run", path) == 3
    assert "cuda-float16-torch2.6-0123456789ab" in capsys.readouterr().out
    assert cli("run", path, "--any-environment") == 0


def test_another_input_is_no_regression_but_a_missing_baseline(tmp_path: Path) -> None:
    path = approved(tmp_path, "a")
    draw(tmp_path / "photo.png", 24, 16, seed=5)
    assert cli("run", path) == 3


def test_an_output_of_another_size_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = approved(tmp_path, "a")
    path.write_text(path.read_text().replace("[case.set]", '[case.set]\n"hires.scale" = 1.5'))
    assert cli("run", path) == 1
    assert "The size changed: 36x24 for 48x32." in capsys.readouterr().out


def test_a_case_that_cannot_be_rendered_is_a_crash_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = approved(tmp_path, "a")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    path.write_text('[[case]]\nname = "broken"\ninput = "bad.png"\n' + FAST + path.read_text())
    assert cli("run", path) == 4
    rows = json.loads((tmp_path / "suite.results" / "results.json").read_text())["cases"]
    assert {row["case"]: row["status"] for row in rows} == {"broken": "crash", "a": "pass"}


def test_a_case_that_cannot_be_rendered_cannot_be_approved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = approved(tmp_path, "a")
    path.write_text(
        path.read_text() + '[[case]]\nname = "m"\ninput = "photo.png"\nset = {"model.checkpoint" = "x.pt"}\n'
    )
    assert cli("approve", path, "--reason", "a model that isn't here", "--renders", "2") == 4
    assert "m can't be rendered: x.pt is a pickle" in capsys.readouterr().err
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    assert cli("approve", path, "--reason", "broken", "--renders", "2") == 4


def test_an_approval_that_replaces_a_damaged_one_says_so(tmp_path: Path) -> None:
    path = approved(tmp_path, "a")
    record = next((tmp_path / "baselines" / "a").glob("*.json"))
    record.with_suffix(".png").write_bytes(b"")
    assert cli("approve", path, "--reason", "again", "--renders", "2") == 0
    (entry,) = json.loads(record.read_text())["history"]
    assert entry["change"].startswith("the one before is lost: ") and record.stem in entry["change"]


def test_results_replace_an_earlier_runs_pictures_and_nobody_elses(tmp_path: Path) -> None:
    path = approved(tmp_path, "a", "b")
    mine = draw(tmp_path / "results" / "images" / "mine.png")
    assert cli("run", path, "-o", tmp_path / "results") == 0
    assert cli("run", path, "-o", tmp_path / "results", "--filter", "b") == 0
    assert sorted(one.name for one in mine.parent.iterdir()) == ["b.new.png", "mine.png"]


def test_results_that_cannot_be_written_are_usage_before_anything_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = approved(tmp_path, "a")
    capsys.readouterr()
    assert cli("run", path, "-o", tmp_path / "photo.png") == 2
    said = capsys.readouterr()
    assert "Results can't be written to" in said.err and "hint:" in said.err
    assert "pass" not in said.out


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"version": 1, "cases": [{}]}', '{"version": 1, "suite": "s", "cases": 3}']
)
def test_damaged_results_are_usage(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = suite_of(tmp_path, "a")
    (tmp_path / "suite.results").mkdir()
    (tmp_path / "suite.results" / "results.json").write_text(text)
    assert cli("report", path) == 2
    assert "results.json can't be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[case]]", "name"),
        ("x = 1", "x"),
        ("", "no [[case]]"),
        ("[[case", "no TOML"),
        ('[[case]]\nname = "a/b"\ninput = "photo.png"', "name"),
        ('[[case]]\nname = ".hidden"\ninput = "photo.png"', "name"),
        ('[[case]]\nname = "a"', "input or a prompt"),
        ('[[case]]\nname = "a"\ninput = "gone.png"', "there is no"),
        ('[[case]]\nname = "a"\ninput = "photo.png"\nconfig = "nonsense"', "nonsense"),
        ('[[case]]\nname = "a"\ninput = "photo.png"\n[case.set]\n"hires.scal" = 2', "hires.scal"),
        ('[[case]]\nname = "a"\ninput = "photo.png"\n[case.set]\nhires = 2', "section.key"),
        ('[[case]]\nname = "a"\ninput = "photo.png"\n[[case]]\nname = "A"\ninput = "photo.png"', "two cases"),
    ],
)
def test_a_wrong_suite_is_usage_and_says_what(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photo.png")
    path = tmp_path / "suite.toml"
    path.write_text(text)
    assert cli("run", path) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "hint:" in err


def test_usage_errors(tmp_path: Path) -> None:
    path = suite_of(tmp_path, "a")
    assert cli("run", tmp_path / "none.toml") == 2
    assert cli("run", path, "--filter", "z*") == 2
    assert cli("approve", path, "--reason", " ") == 2
    assert cli("approve", path) == 2
    assert cli("report", path) == 2
    with pytest.raises(ConfigError):
        load(tmp_path)


def test_thresholds_follow_the_spread_of_renders_but_never_below_the_floor() -> None:
    density = next(m for m in METRICS if m.name == "density")
    assert density.limit([0.0, 0.0]) == density.floor
    spread = [0.02, 0.04, 0.06]
    assert density.limit(spread) == pytest.approx(0.04 + 4 * np.std(spread))
    ssim = next(m for m in METRICS if m.name == "ssim")
    assert ssim.limit([0.95, 0.93]) == pytest.approx(0.94 - 4 * 0.01)
    assert not Metric("x", 1.0, False, "").passes(float("nan"), 1.0)


def test_compare_points_at_the_worst_place() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, (700, 300, 3)).astype(np.float32)
    made = base.copy()
    made[600:616, 200:216] += 0.2
    found = compare(made, base)
    assert found.box is not None
    x0, y0, x1, y1 = found.box
    assert x0 < 216
    assert x1 > 200
    assert y0 < 616
    assert y1 > 600
    assert found.values["density"] == pytest.approx(256 / comparing.WINDOW**2)
    assert compare(base[:5, :4], base[:5, :4] + np.float32(0.1)).failures({}), "pictures smaller than a window"


def test_the_worst_of_several_cases_is_the_exit_code() -> None:
    def code(*statuses: str) -> int:
        return code_of([Result(s, s) for s in statuses])  # pyright: ignore[reportArgumentType]

    assert code("pass", "missing", "regression", "crash") == 4
    assert code("pass", "missing", "regression") == 1
    assert code("pass", "missing") == 3
    assert code("pass") == 0


def test_junit_holds_any_text() -> None:
    row = Result("a", "crash", "control \x00 \x1b and \udc80 and <&>").to_json()
    tree = ElementTree.fromstring(results.junit("s\x01", [row]))
    assert tree.find(".//error") is not None


def test_a_result_is_one_line_with_what_matters() -> None:
    bad = Result("a", "regression", values={"ssim": 0.9, "density": 0.36912}, failed=("density",))
    assert bad.line() == "regression a: density 0.3691"
    assert (
        Result("a", "regression", "Compared with x.", values={"ssim": 0.9}, failed=("ssim",))
        .line()
        .endswith("a: Compared with x. ssim 0.9")
    )
    assert Result("a", "pass", identical=True).line() == "pass       a: identical"
    assert Result("a", "pass").line() == "pass       a"
