"""Which sizes an image passes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilehires.config.settings import HiresSettings
from tilehires.errors import ImageError
from tilehires.geometry import Box, Size
from tilehires.stages.route import Route, route

MANY = 10**12


def way(size: Size, **settings: object) -> Route:
    return route(size, HiresSettings.model_validate(settings), max_pixels=MANY)


def sizes(found: Route) -> list[str]:
    return [f"{step.name} {step.size}" for step in found.steps]


def test_two_is_one_step() -> None:
    assert sizes(way(Size(512, 512), scale=2)) == ["hires 1024x1024"]


def test_beyond_two_goes_in_equal_steps() -> None:
    assert sizes(way(Size(512, 512), scale=4)) == ["hires 1024x1024", "tiled.1 2048x2048"]
    assert sizes(way(Size(100, 100), scale=3)) == ["hires 173x173", "tiled.1 300x300"]
    assert sizes(way(Size(100, 100), scale=2.1)) == ["hires 145x145", "tiled.1 210x210"]


def test_eight_shares_its_first_steps_with_four() -> None:
    assert way(Size(333, 217), scale=8).steps[:1] == way(Size(333, 217), scale=4).steps[:1]
    assert sizes(way(Size(512, 512), scale=8))[:2] == sizes(way(Size(512, 512), scale=4))


def test_one_side_given_keeps_the_aspect() -> None:
    assert way(Size(300, 200), resize_x=900).target == Size(900, 600)
    assert way(Size(300, 200), resize_y=100).target == Size(150, 100)


def test_both_sides_given_cover_and_crop_the_centre() -> None:
    found = way(Size(400, 200), resize_x=600, resize_y=600)
    assert found.steps[-1].size == Size(1200, 600)
    assert found.steps[-1].crop == Box(300, 0, 900, 600)
    assert found.target == Size(600, 600)
    assert found.frame == Box(100, 0, 300, 200)
    assert found.steps[0].crop == Box.of(found.steps[0].size), "only the last step crops"


def test_caps_keep_the_aspect() -> None:
    assert way(Size(400, 200), scale=4, max_side=1000).target == Size(1000, 500)
    assert way(Size(1000, 1000), scale=4, max_megapixels=4).target == Size(2000, 2000)


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.1, 16), st.integers(0, 5000), st.floats(0.01, 30))
def test_every_route_is_exact_bounded_and_steps_by_two_at_most(
    w: int, h: int, scale: float, side: int, mp: float
) -> None:
    found = way(Size(w, h), scale=scale, max_side=side, max_megapixels=mp)
    assert not side or found.target.long_side <= side
    assert found.target.pixels <= mp * 1e6 or 1 in (found.target.width, found.target.height)
    before = Size(w, h)
    for step in found.steps:
        # Rounding adds half a pixel on either side of the quotient.
        assert step.size.width <= 2 * (before.width + 0.5) + 0.5 and step.size.height <= 2 * (before.height + 0.5) + 0.5
        before = step.size


def test_an_output_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ImageError, match="max_pixels") as error:
        route(Size(1000, 1000), HiresSettings.model_validate({"scale": 4}), max_pixels=10**6)
    assert "--max-side" in error.value.hint
