"""Sizes and boxes."""

from __future__ import annotations

import pytest

from tilehires.geometry import Box, Size


@pytest.mark.parametrize("text", ["512x768", " 512 × 768 ", "512X768"])
def test_size_is_read(text: str) -> None:
    assert Size.parse(text) == Size(512, 768)


@pytest.mark.parametrize("text", ["512", "x", "512x", "-1x3", "5.5x3", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        Size.parse(text)


def test_scaling_rounds_halves_up_and_never_to_nothing() -> None:
    assert Size(3, 1).scaled(1.5) == Size(5, 2)
    assert Size(1, 1).scaled(0.1) == Size(1, 1)


def test_ceil_and_divide() -> None:
    assert Size(65, 64).ceil_to(64) == Size(128, 64)
    assert Size(128, 64).divided(8) == Size(16, 8)
    with pytest.raises(ValueError, match="multiple of 8"):
        Size(12, 8).divided(8)


def test_box_arithmetic() -> None:
    box = Box(3, 5, 10, 9)
    assert box.size == Size(7, 4)
    assert box.pad(4).clip(Size(12, 12)) == Box(0, 1, 12, 12)
    assert box.scale(0.5) == Box(1, 2, 5, 5), "a scaled box grows outwards, so that nothing inside is lost"
    assert box.align(4) == Box(0, 4, 12, 12)
    assert box.shift(1, -1) == Box(4, 4, 11, 8)


def test_a_box_around_boxes_is_the_smallest() -> None:
    assert Box.around(Box(1, 2, 3, 4)) == Box(1, 2, 3, 4)
    assert Box.around(Box(1, 2, 3, 4), Box(0, 3, 2, 9)) == Box(0, 2, 3, 9)


def test_a_box_outside_has_no_area() -> None:
    clipped = Box(20, 20, 30, 30).clip(Size(10, 10))
    assert clipped.width == 0 and clipped.height == 0
