"""Each check finds the defect it is for, in its place, stays silent on a good output, and abstains where it can't see."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from tests.batches import drawing
from tilehires.checks import Finding
from tilehires.checks.banding import banding
from tilehires.checks.blocks import block_means, worst_block
from tilehires.checks.colour import colour, colour_local
from tilehires.checks.drift import drift, structure
from tilehires.checks.duplicates import duplicates, overlap
from tilehires.checks.halo import halo
from tilehires.checks.planes import Reduced, blurred, luma
from tilehires.checks.residual import noise, texture
from tilehires.checks.sharpness import oversharp, soft
from tilehires.geometry import Box, Size

Check = Callable[[np.ndarray, np.ndarray], list[Finding]]
CHECKS: tuple[Check, ...] = (
    *(oversharp, soft, halo, noise, texture),
    *(drift, structure, colour, colour_local, banding),
)
PATCH = (slice(320, 384), slice(64, 128))
PATCH_BOX = Box(64, 320, 128, 384)


def scene() -> np.ndarray:
    """480² with a slope, a flat part, strong edges, texture, and colour: something to measure for every check."""
    y, x = np.mgrid[0:480, 0:480] / 480
    y, x = np.where(x < 0.6, y, 0.2), np.minimum(x, 0.6)
    image = np.stack([0.1 + 1.2 * y + 0.2 * x, 0.2 + 0.9 * y + 0.2 * x, 0.4 + 0.7 * y], -1)
    image[240:] = drawing(480, 240, seed=3) / 255
    image[60:120, 100:220] = (0.85, 0.8, 0.2)
    image[80:110, 260:400] = (0.1, 0.15, 0.1)
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)


def rounded(image: np.ndarray) -> np.ndarray:
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


@pytest.fixture(scope="module")
def good() -> tuple[np.ndarray, np.ndarray]:
    """(output, input): the scene with grain of a quarter of a level, and its half."""
    image = scene()
    grain = np.random.default_rng(0).normal(0, 0.25 / 255, image.shape)
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return rounded(image + grain), rounded(small)


def flagged(check: Check, output: np.ndarray, input: np.ndarray) -> Finding:
    (found,) = check(output, input)
    assert found.check == check.__name__ and found.value is not None
    assert found.flags == (found.value > found.limit)
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_good_output_is_measured_and_not_flagged(check: Check, good: tuple[np.ndarray, np.ndarray]) -> None:
    assert not flagged(check, *good).flags, check(*good)


def sharpened(image: np.ndarray) -> np.ndarray:
    return image + 1.0 * (image - blurred(image, 2))


def noisy(image: np.ndarray) -> np.ndarray:
    return image + np.random.default_rng(1).normal(0, 4 / 255, image.shape)


def woven(image: np.ndarray) -> np.ndarray:
    """A weave of 4 levels in a third of the sky: too little of it to move the median."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    where = (y < 50) & (x > 300)
    return image + (where * np.sin(x * 1.6) * np.sin(y * 1.6) * 8 / 255)[..., None]


def replaced(image: np.ndarray) -> np.ndarray:
    made = image.copy()
    made[PATCH] = image[60:124, 100:164]
    return made


def scrambled(image: np.ndarray) -> np.ndarray:
    """The patch turned upside down: its mean stays what it was."""
    made = image.copy()
    made[PATCH] = image[PATCH][::-1, ::-1]
    return made


def tinted(image: np.ndarray) -> np.ndarray:
    return image * np.array([1.1, 1.0, 0.9])


def tinted_patch(image: np.ndarray) -> np.ndarray:
    made = image.copy()
    made[PATCH] = tinted(image[PATCH])
    return made


def in_stairs(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 31) / 31


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (oversharp, sharpened),
        (soft, lambda image: blurred(image, 2)),
        (halo, sharpened),
        (noise, noisy),
        (texture, woven),
        (drift, replaced),
        (structure, scrambled),
        (colour, tinted),
        (colour_local, tinted_patch),
        (banding, in_stairs),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_defect_is_found(
    check: Check, spoil: Callable[[np.ndarray], np.ndarray], good: tuple[np.ndarray, np.ndarray]
) -> None:
    after, before = good
    found = flagged(check, rounded(spoil(after)), before)
    assert found.severity == "warning", found


@pytest.mark.parametrize(("check", "spoil"), [(drift, replaced), (structure, scrambled), (colour_local, tinted_patch)])
def test_a_local_defect_is_boxed(
    check: Check, spoil: Callable[[np.ndarray], np.ndarray], good: tuple[np.ndarray, np.ndarray]
) -> None:
    after, before = good
    box = flagged(check, rounded(spoil(after)), before).box
    assert box is not None and overlap(box, PATCH_BOX) > 0.2, (box, PATCH_BOX)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_changed_patch_is_found_wherever_it_lies(good: tuple[np.ndarray, np.ndarray], scale: int) -> None:
    """10 levels over 64 px of the output, across the corner of four 32-px blocks of the input."""
    after = good[0]
    before = cv2.resize(after, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    corner = 32 * scale
    made = after.copy()
    made[corner - 32 : corner + 32, corner - 32 : corner + 32] += 11 / 255
    found = flagged(drift, rounded(made), before)
    patch = Box(corner - 32, corner - 32, corner + 32, corner + 32)
    assert found.flags and found.box is not None and overlap(found.box, patch) > 0.9, found


def test_what_any_interpolation_overshoots_is_no_halo() -> None:
    """Lanczos rings; an unsharp mask on top of it makes a halo. Bright and dark lines, 4 px wide."""
    before = np.full((96, 96, 3), 0.5, np.float32)
    before[:, 16:80:16], before[:, 20:80:16] = 0.8, 0.2
    after = cv2.resize(before, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
    assert not flagged(halo, rounded(after), before).flags
    assert flagged(halo, rounded(sharpened(after)), before).flags


def test_a_weave_does_not_pass_for_noise_all_over(good: tuple[np.ndarray, np.ndarray]) -> None:
    assert not flagged(noise, rounded(woven(good[0])), good[1]).flags


@pytest.mark.parametrize("check", [oversharp, soft, halo, banding])
def test_a_flat_picture_has_nothing_to_measure(check: Check) -> None:
    (found,) = check(np.full((96, 96, 3), 0.5, np.float32), np.full((48, 48, 3), 0.5, np.float32))
    assert found.abstained and found.message.startswith("n/a") and not found.flags


@pytest.mark.parametrize("check", [noise, texture])
def test_without_a_flat_area_noise_is_not_judged(check: Check) -> None:
    rough = np.random.default_rng(0).uniform(0, 1, (128, 128, 3)).astype(np.float32)
    (found,) = check(rough.repeat(2, 0).repeat(2, 1), rough)
    assert found.abstained


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (257, 65)])
@pytest.mark.parametrize("factor", [1, 3])
def test_any_shape_is_looked_at(shape: tuple[int, int], factor: int) -> None:
    before = np.random.default_rng(0).uniform(0.2, 0.8, (*shape, 3)).astype(np.float32)
    after = before.repeat(factor, 0).repeat(factor, 1)
    for check in CHECKS:
        for pair in ((after, before), (before, after)):
            (found,) = check(*pair)
            assert found.abstained or np.isfinite(found.value or 0), found


def test_what_is_no_number_is_left_to_its_own_check(good: tuple[np.ndarray, np.ndarray]) -> None:
    after, before = good
    broken = after.copy()
    broken[5:9, 5:9] = np.nan
    for check in CHECKS:
        (found,) = check(broken, before)
        assert found.abstained or np.isfinite(found.value or 0), found


def test_a_second_subject_is_found_where_it_is() -> None:
    image = np.zeros((4, 4, 3), np.float32)
    (found,) = duplicates(image, image)
    assert found.abstained
    head, moved, second = Box(0, 0, 10, 10), Box(2, 1, 12, 11), Box(20, 0, 30, 10)
    (found,) = duplicates(image, image, detections=([moved], [head]))
    assert not found.flags and found.value == 0
    (found,) = duplicates(image, image, detections=([moved, second], [head]))
    assert found.severity == "warning" and found.value == 1 and found.box == second


# The planes


@pytest.mark.parametrize("shape", [(90, 128), (67, 100), (180, 256)])
def test_a_reduced_image_averages_areas(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(0, 1, (180, 256, 3)).astype(np.float32)
    reduced = Reduced(image, shape, luma)
    whole = reduced.rows(0, shape[0])
    expected = cv2.resize(luma(image), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(whole - expected).max() < 1e-3
    pieces = [reduced.rows(y, min(y + 19, shape[0])) for y in range(0, shape[0], 19)]
    assert np.abs(np.concatenate(pieces) - whole).max() < 1e-3


def test_block_means_and_the_worst_block() -> None:
    plane = np.arange(35, dtype=np.float32).reshape(5, 7)
    means = block_means(plane, 4)
    assert means.shape == (2, 2) and means[1, 1] == plane[4:, 4:].mean() and means[0, 0] == plane[:4, :4].mean()
    assert worst_block(means, 4, Size(14, 10), (2.0, 2.0)) == Box(8, 8, 14, 10)
