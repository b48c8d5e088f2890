"""Which way pictures take through the VAE follows from settings and sizes alone."""

from __future__ import annotations

import pytest

from tilehires.geometry import Size
from tilehires.memory import GIB, VaeShape, vae_bytes, vae_mode

SD = VaeShape((128, 256, 512, 512), bounded=False)
TINY = VaeShape((64, 64, 64, 64), bounded=True)


@pytest.mark.parametrize(
    ("asked", "side", "shape", "gigabytes", "expected"),
    [
        ("auto", 1536, SD, 1, "whole"),
        ("auto", 1600, SD, 12, "tiled"),
        ("auto", 4096, SD, 12, "estimated"),
        ("auto", 4096, SD, 32, "tiled"),
        ("auto", 16384, TINY, 1, "tiled"),
        ("whole", 16384, SD, 1, "whole"),
        ("tiled", 512, SD, 1, "tiled"),
        ("tiled", 16384, SD, 1, "tiled"),
        ("estimated", 512, SD, 64, "estimated"),
        ("estimated", 512, TINY, 64, "tiled"),
    ],
)
def test_the_mode(asked, side: int, shape: VaeShape, gigabytes: int, expected: str) -> None:
    canvas = Size(side, 64)
    square = Size(side, side)
    assert vae_mode(asked, square, shape, whole_max=1536, budget=gigabytes * GIB) == expected
    if expected == "whole":
        assert vae_mode(asked, canvas, shape, whole_max=1536, budget=0) == "whole"


def test_stable_diffusions_activations_are_as_counted_by_hand() -> None:
    """At full resolution: 256 channels go in, 128 lie between, and what comes out takes the place of the former."""
    assert vae_bytes(SD, Size(4096, 4096)) == 4 * (256 + 128) * 4096**2
