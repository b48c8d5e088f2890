"""The project's own regression renders, and what they must catch: renders of the built-in model."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilehires.regress import guard
from tilehires.regress import render as renderer
from tilehires.regress.compare import compare
from tilehires.regress.render import Render
from tilehires.regress.suite import Case, Suite, load

SUITE = Path(__file__).parent / "suite" / "suite.toml"


def test_renders_are_as_approved(tilehires_regress: Callable[..., None]) -> None:
    tilehires_regress("suite/suite.toml", any_environment=True)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A copy whose second case has a baseline of this very environment, made by this build."""
    folder = tmp_path_factory.mktemp("suite")
    shutil.copy(SUITE, folder)
    shutil.copy(SUITE.parent / "leaves.png", folder)
    suite = load(folder / SUITE.name)
    guard.approve(suite, suite.only("tiles"), reason="made for a test", renders=2)
    return suite


@pytest.fixture(scope="module")
def build(suite: Suite) -> np.ndarray:
    """What this build renders."""
    return renderer.render(suite.only("tiles")[0]).pixels


def verdict(suite: Suite, case: Case, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray | None = None) -> Any:
    """The result of a case; with `pixels` as if the build had rendered those."""
    if pixels is not None:
        monkeypatch.setattr(guard, "render", lambda case: Render(b"", np.clip(pixels, 0, 1).astype(np.float32)))
    return guard.check(suite, [case])[0]


def test_a_rerun_of_the_same_build_passes_and_is_identical(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verdict(suite, suite.only("tiles")[0], monkeypatch)
    assert result.status == "pass", result
    assert result.identical


def test_a_changed_scheduler_is_caught(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    case = suite.only("tiles")[0]
    config = case.config.with_layer({"generate": {"sampler": "DPM++ 2M", "scheduler": "Karras"}}, "a drift")
    result = verdict(suite, dataclasses.replace(case, config=config), monkeypatch)
    assert result.status == "regression", result
    assert result.changed_settings["generate.sampler"] == ["DDIM", "DPM++ 2M"]


def test_a_scheduler_whose_picture_differs_by_nothing_visible_is_caught_where_the_case_is_exact(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = suite.only("tiles")[0]
    near = dataclasses.replace(case, config=case.config.with_layer({"generate": {"sampler": "Euler"}}, "a drift"))
    assert verdict(suite, near, monkeypatch).status == "pass"
    result = verdict(suite, dataclasses.replace(near, exact=True), monkeypatch)
    assert (result.status, result.failed) == ("regression", ("exact",))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_seam_one_pixel_wide_is_caught(
    suite: Suite, build: np.ndarray, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drifted = build.copy()
    np.moveaxis(drifted, axis, 0)[100] += np.where(np.moveaxis(build, axis, 0)[100] < 0.5, 1, -1) * 20 / 255
    assert np.abs(drifted - build).mean() < 0.001, "the very seam that a mean threshold of 0.1 % passes"
    result = verdict(suite, suite.only("tiles")[0], monkeypatch, drifted)
    assert (result.status, result.failed) == ("regression", ("density",))
    x0, y0, x1, y1 = result.box
    assert (y0 <= 100 < y1) if axis == 0 else (x0 <= 100 < x1)


def test_a_tint_of_delta_e_2_is_caught(suite: Suite, build: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    drifted = np.clip(build + np.array([0.018, 0, -0.018], np.float32), 0, 1)
    assert 1.5 < compare(drifted, build).values["delta_e"] < 2.5
    result = verdict(suite, suite.only("tiles")[0], monkeypatch, drifted)
    assert (result.status, result.failed) == ("regression", ("delta_e",))


def test_a_crop_that_is_off_by_one_is_caught(suite: Suite, build: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = np.concatenate([build[:, 1:], build[:, -1:]], axis=1)
    result = verdict(suite, suite.only("tiles")[0], monkeypatch, shifted)
    assert result.status == "regression"
    assert {"ssim", "density"} <= set(result.failed)
    narrower = verdict(suite, suite.only("tiles")[0], monkeypatch, build[:, 1:])
    assert (narrower.status, narrower.failed) == ("regression", ("size",))
