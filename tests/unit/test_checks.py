"""The first checks: each finds what it is for, with its place, and stays silent on good pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilehires.checks import Finding, check, names, require
from tilehires.checks.black import black
from tilehires.checks.finite import finite
from tilehires.checks.size import size
from tilehires.config.settings import HiresSettings
from tilehires.errors import ConfigError
from tilehires.geometry import Box, Size
from tilehires.progress import Silent
from tilehires.stages import Source, StageResult, Tools
from tilehires.stages.check import CheckSettings, CheckStage
from tilehires.stages.route import route

TOOLS = Tools(bay=None, plan=None, progress=Silent())  # pyright: ignore[reportArgumentType] - a check needs neither


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (height, width, 3)).astype(np.float32)


def enlarged(image: np.ndarray, factor: int = 2) -> np.ndarray:
    return image.repeat(factor, 0).repeat(factor, 1)


def flags(findings: Sequence[Finding]) -> list[str]:
    """Names of the checks that flag the image."""
    return [found.check for found in findings if found.flags]


def test_a_good_picture_is_not_flagged() -> None:
    before = textured(150, 90)
    assert flags(check(enlarged(before), before)) == []


def test_checks_are_found_by_name() -> None:
    assert {"black", "finite", "size"} <= set(names())
    with pytest.raises(ConfigError, match="blak") as error:
        require(["black", "blak"])
    assert "black" in error.value.hint
    with pytest.raises(ConfigError):
        check(textured(4, 4), textured(4, 4), only=["blak"])


def test_only_the_checks_asked_for_run() -> None:
    before = textured(64, 64)
    broken = np.zeros((128, 300, 3), np.float32)
    broken[0, 0] = np.nan
    assert {found.check for found in check(broken, before)} >= {"black", "size", "finite"}
    assert {found.check for found in check(broken, before, only=["size"])} == {"size"}


# black


def test_a_black_block_is_found_in_its_place() -> None:
    before = textured(160, 160)
    after = enlarged(before)
    after[64:192, 128:192] = 0
    (found,) = black(after, before)
    assert found.severity == "error" and found.value == 3 and found.box == Box(128, 64, 192, 192)


def test_black_blocks_far_apart_are_each_found_in_their_place() -> None:
    before = textured(320, 320)
    after = enlarged(before)
    after[0:64, 0:64], after[512:640, 512:576] = 0, 0
    corner, other = black(after, before)
    assert (corner.box, corner.value) == (Box(0, 0, 64, 64), 1)
    assert (other.box, other.value) == (Box(512, 512, 576, 640), 3)
    after[:] = enlarged(before)
    for y in range(0, 640, 128):
        for x in range(0, 640, 128):
            after[y : y + 64, x : x + 64] = 0
    (whole,) = black(after, before)
    assert (whole.box, whole.value) == (Box(0, 0, 576, 576), 25), "25 places are one"


def test_a_flat_block_is_found_and_a_flat_input_is_none() -> None:
    before = textured(128, 128)
    after = enlarged(before)
    after[:64, :64] = 0.5
    (found,) = black(after, before)
    assert found.box == Box(0, 0, 64, 64)
    flat = np.full((128, 128, 3), 0.5, np.float32)
    dark = np.zeros((128, 128, 3), np.float32)
    assert black(enlarged(flat), flat) == [] and black(enlarged(dark), dark) == []


def test_partial_blocks_at_the_border_count() -> None:
    before = textured(50, 50)
    after = enlarged(before)
    after[64:, 64:] = 0
    (found,) = black(after, before)
    assert found.box == Box(64, 64, 100, 100)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (65, 63)])
def test_any_shape_and_scale_is_looked_at(shape: tuple[int, int]) -> None:
    before = textured(*shape)
    assert black(enlarged(before, 3), before) == []
    assert black(before[::2, ::2], before) == []


# finite


def test_places_far_apart_are_one_finding_around_both() -> None:
    after = np.zeros((900, 40, 3), np.float32)
    after[3, 30, 1], after[700:702, 5] = np.nan, np.inf
    (found,) = finite(after, after)
    assert found.value == 3 and found.box == Box(5, 3, 31, 702) and found.message.startswith("3 pixels")


def test_numbers_that_are_none_are_counted_and_boxed() -> None:
    after = textured(40, 30)
    after[5, 7, 1], after[9, 3, 0] = np.nan, np.inf
    (found,) = finite(after, after)
    assert found.severity == "error" and found.value == 2 and found.box == Box(3, 5, 8, 10)


# size


def test_another_aspect_is_found() -> None:
    before = textured(100, 50)
    (found,) = size(textured(200, 105), before)
    assert found.severity == "error" and found.value == 5 and "200x105" in found.message


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.floats(0.1, 16),
    st.sampled_from([{}, {"max_side": 700}, {"max_megapixels": 0.3}, {"resize_x": 333}, {"resize_y": 77}]),
)
def test_no_size_that_we_plan_is_flagged(width: int, height: int, scale: float, more: dict[str, float]) -> None:
    settings = HiresSettings.model_validate({"scale": scale, **more})
    target = route(Size(width, height), settings, max_pixels=10**12).target
    before = np.broadcast_to(np.float32(0), (height, width, 3))
    after = np.broadcast_to(np.float32(0), (target.height, target.width, 3))
    assert size(after, before) == [], f"{width}x{height} -> {target}"


# The stage


def stage(source: np.ndarray, output: np.ndarray, *, frame: Box | None = None, only: tuple[str, ...] = ()) -> list[str]:
    """Names of the findings of the check stage, which expects twice the source's or frame's size."""
    frame = frame or Box(0, 0, source.shape[1], source.shape[0])
    target = Size(frame.width * 2, frame.height * 2)
    settings = CheckSettings(only=only, target=target, frame=frame, cropped=frame.width < source.shape[1])
    result = CheckStage(settings).run(StageResult(output), Source(source), TOOLS)
    assert result.pixels is output, "a check changes no pixel"
    return flags(result.findings)


def test_the_stage_passes_what_is_good_and_flags_another_size() -> None:
    before = textured(64, 48)
    assert stage(before, enlarged(before)) == []
    assert stage(before, enlarged(before)[:-2]) != []
    assert stage(before, enlarged(before)[:-2], only=("finite",)) == ["size"], "the size asked for is always compared"


def test_a_crop_is_compared_with_the_part_it_shows() -> None:
    before = textured(100, 100)
    before[:, :50] = 0  # black where the crop doesn't reach
    frame = Box(50, 0, 100, 100)
    assert stage(before, enlarged(before)[:, 100:], frame=frame) == []
    assert "black" in stage(before, enlarged(before)[:, :100], frame=frame)
    assert stage(before, enlarged(before)[:, 100:], frame=frame, only=("size",)) == []


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 600), st.integers(1, 600))
def test_a_crop_to_any_size_is_not_flagged_for_its_aspect(width: int, height: int, x: int, y: int) -> None:
    way = route(Size(width, height), HiresSettings.model_validate({"resize_x": x, "resize_y": y}), max_pixels=10**12)
    before = np.broadcast_to(np.float32(0.5), (height, width, 3))
    after = np.broadcast_to(np.float32(0.5), (way.target.height, way.target.width, 3))
    assert way.frame.width and way.frame.height, "a crop that shows nothing of the source"
    settings = CheckSettings(only=("black", "finite", "size"), target=way.target, frame=way.frame, cropped=way.cropped)
    assert flags(CheckStage(settings).run(StageResult(after), Source(before), TOOLS).findings) == []
