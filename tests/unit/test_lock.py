"""The low-frequency lock: drift is removed, detail and edges stay, whatever the strips. Differences are in levels of 8 bits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.color

from tilehires.geometry import Size
from tilehires.tiling import lock as module
from tilehires.tiling.lock import LowBand, lock, low_band

SIDE = 256


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2).astype(np.float32)


def across(side: int = SIDE) -> np.ndarray:
    """Columns 0 … 1 from left to right."""
    return np.broadcast_to(np.linspace(0, 1, side), (side, side))


def texture(side: int = SIDE, spread: float = 3.0) -> np.ndarray:
    """Fine detail without broad tones: noise less its own blur."""
    noise = np.random.default_rng(0).normal(0, spread / 255, (side, side, 3)).astype(np.float32)
    locked = noise.copy()
    lock(locked, low_band(np.zeros_like(noise)))
    return locked


def locked(output: np.ndarray, input: np.ndarray, strength: float = 1.0) -> np.ndarray:
    made = output.copy()
    lock(made, low_band(input), strength)
    return made


def five_levels(difference: np.ndarray) -> np.ndarray:
    """The à-trous low band at full size: B3 splines with holes of 1, 2, 4, 8 and 16 pixels."""
    for level in range(5):
        for axis in (0, 1):
            difference = module._smoothed(difference, 2**level, axis)
    return difference


def test_a_drift_of_three_levels_is_removed() -> None:
    sky = grey(0.3 + 0.4 * across().T)
    drifted = sky + grey((across() - 0.5) * 3 / 255)
    assert np.abs(drifted - sky).max() * 255 > 1.4
    assert np.abs(locked(drifted, sky) - sky).max() * 255 < 0.3
    inside = np.abs(locked(drifted, sky) - sky)[70:-70, 70:-70]
    assert inside.max() * 255 < 0.01, "away from the border a linear drift is removed whole"


def test_a_constant_drift_is_removed_to_rounding_and_each_channel_by_itself() -> None:
    sky = grey(0.3 + 0.4 * across())
    tint = np.array([4, -3, 2], np.float32) / 255
    assert np.abs(locked(sky + tint, sky) - sky).max() < 1e-6


def test_a_flat_gradient_keeps_no_bands() -> None:
    """The correction comes from cells of 8 pixels: none of their edges may show."""
    sky = grey(0.3 + 0.1 * across())
    wave = grey(np.sin(across() * 9) * 3 / 255)
    added = locked(sky + wave, sky) - (sky + wave)
    bends = np.abs(np.diff(added[SIDE // 2, :, 0].astype(np.float64), 2)) * 255
    assert bends.max() < 0.02, "a kink of the correction"
    assert np.abs(added).max() * 255 > 2, "nothing was corrected"


def test_detail_stays() -> None:
    sky, detail = grey(0.3 + 0.4 * across()), texture()
    made = locked(sky + detail + np.float32(5 / 255), sky)
    assert np.abs(made - sky - detail).max() * 255 < 0.1


@pytest.mark.parametrize("moved", [1, 3, 6, 10])
def test_an_edge_that_moved_gets_no_halo(moved: int) -> None:
    columns = np.broadcast_to(np.arange(SIDE), (SIDE, SIDE))
    before, after = grey(np.where(columns < 128, 0.2, 0.8)), grey(np.where(columns < 128 + moved, 0.2, 0.8))
    naive = after + cv2.GaussianBlur(before - after, (0, 0), 18.6)
    halo = np.abs(locked(after, before) - after).max() * 255
    assert halo < 0.2, f"{halo:.2f} levels"
    assert np.abs(naive - after).max() * 255 > 10 * halo


def test_a_sharpened_edge_keeps_its_sides_flat() -> None:
    columns = np.broadcast_to(np.arange(SIDE), (SIDE, SIDE))
    crisp = grey(np.where(columns < 131, 0.2, 0.8))
    soft = cv2.GaussianBlur(crisp, (0, 0), 3)
    naive = crisp - cv2.GaussianBlur(crisp, (0, 0), 4) + cv2.GaussianBlur(soft, (0, 0), 4)
    halo, theirs = (np.abs(made - crisp).max() * 255 for made in (locked(crisp, soft), naive))
    assert halo < 0.5 < 5 < theirs, f"{halo:.2f} levels beside the edge, {theirs:.2f} by swapping blurs"


def test_broad_tones_come_nearer_to_the_inputs() -> None:
    """Mean ΔE2000 of both blurred, on a coloured picture with detail and an uneven drift."""
    rows = across().T
    picture = np.stack([0.2 + 0.5 * across(), 0.3 + 0.3 * rows, 0.6 - 0.3 * across() * rows], -1).astype(np.float32)
    output = picture + texture() + grey(np.sin(across() * 5 + rows * 3) * 6 / 255) * np.array([1, 0.2, -1], np.float32)

    def away(image: np.ndarray) -> float:
        pair = [skimage.color.rgb2lab(cv2.GaussianBlur(x, (0, 0), 16)) for x in (image, picture)]
        return float(skimage.color.deltaE_ciede2000(*pair).mean())

    assert away(locked(output, picture)) < 0.25 * away(output)
    assert away(locked(output, picture, 0.5)) == pytest.approx(0.5 * away(output), rel=0.2)


def test_strength_none_changes_no_bit() -> None:
    output = np.random.default_rng(1).random((40, 50, 3), dtype=np.float32)
    assert np.array_equal(locked(output, np.zeros_like(output), 0.0), output)


def test_the_band_is_the_wavelets_to_what_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 0)  # the weights are no part of the wavelet
    rng = np.random.default_rng(0)
    for detail in (0, 1, 2, 3, 4):
        difference = rng.normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32)
        for level in range(detail):
            for axis in (0, 1):
                difference = module._smoothed(difference, 2**level, axis)
        cells = low_band(difference)
        ours = module.widened(module.drift(cells, np.zeros_like(cells)), 0, SIDE, SIDE)
        assert (ours - five_levels(difference)).std() < 0.004 * difference.std(), f"{detail} levels smoothed before"


@pytest.mark.parametrize("size", [Size(1, 1), Size(3, 200), Size(61, 47), Size(64, 128), Size(130, 5)], ids=str)
def test_any_size_and_any_strips(size: Size) -> None:
    rng = np.random.default_rng(2)
    picture = rng.random((size.height, size.width, 3), dtype=np.float32)
    gathered = LowBand(size)
    for row in reversed(range(0, size.height, 13)):
        gathered.put(row, picture[row : row + 13])
    np.testing.assert_allclose(gathered.band(), low_band(picture), atol=1e-6)
    first = picture[:8, :8].astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(gathered.band()[0, 0], first, atol=1e-6)
    shifted = locked(picture + np.float32(0.1), picture)
    assert np.abs(shifted - picture).max() < 1e-5
    assert shifted.dtype == np.float32


def test_what_lies_further_off_than_stated_has_no_part() -> None:
    cells = np.zeros((40, 40, 3), np.float32)
    cells[20, 20] = 1
    rows = np.flatnonzero(module.widened(module._blurred(cells), 0, 320, 320).any((1, 2)))
    assert 160 - rows.min() <= 64 and rows.max() - 167 <= 64, "a cell reaches 64 pixels beyond its own"


def test_another_pictures_band_is_refused() -> None:
    with pytest.raises(ValueError, match="low band of"):
        lock(np.zeros((64, 64, 3), np.float32), low_band(np.zeros((64, 80, 3), np.float32)))
    with pytest.raises(ValueError, match="strip of shape"):
        LowBand(Size(10, 10)).put(0, np.zeros((2, 9, 3), np.float32))
