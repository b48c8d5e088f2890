"""The low-frequency lock: fine detail from a pass's output, broad tone from its input.

A sampling pass drifts in brightness and hue, which flat skies show first (krita-ai-diffusion #1117). The lock adds back what the
broad tones lost: the low band of input − output, in the scaling function of the à-trous wavelet (cubic B-spline, Starck &
Murtagh 1994). It is held as means of 8×8 pixels, 1/64 of a picture, and widened there by the filter's next two levels: together
a blur of σ = 18.6 px that ends 68 px out. Its answer is within 0.4 % of the difference's rms of what five levels at full size
give (tests/unit/test_lock.py).

Where the pass repainted or moved something, that difference is no drift. Each cell counts by how near it is to what its
surroundings say (a redescending M-estimate, Cauchy's weights), so that a moved edge leaves no halo.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilehires.geometry import OPEN, Size, Wrap

CELL = 8
SPREADS = (1, 2)  # in cells: the à-trous levels four and five
TONE = 4 / 255  # a cell that differs this much from its surroundings' drift counts half
ROUNDS = 5
STRIP = 128  # rows put right at a time
_KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

Band = NDArray[np.float32]
Pixels = NDArray[np.float32]


class LowBand:
    """Gathers the means of 8×8 pixels from strips of a picture, in any order. At the far edges the means are of what is there."""

    def __init__(self, size: Size) -> None:
        self._size = size
        cells = Size(-(-size.width // CELL), -(-size.height // CELL))
        self._sums = np.zeros((cells.height, cells.width, 3), np.float64)
        self._starts = np.arange(0, size.width, CELL)

    def put(self, row: int, strip: Pixels) -> None:
        """Count in rows `row` … of the picture: `strip` is n×W×3. Each row once."""
        if strip.shape[1:] != (self._size.width, 3):
            raise ValueError(f"a strip of shape {strip.shape} of a picture of {self._size}")
        narrow = np.add.reduceat(strip, self._starts, axis=1, dtype=np.float64)
        np.add.at(self._sums, np.arange(row, row + len(strip)) // CELL, narrow)

    def band(self) -> Band:
        """The means, ⌈H/8⌉×⌈W/8⌉×3."""
        counts = np.multiply.outer(*(_counts(side) for side in (self._size.height, self._size.width)))
        return (self._sums / counts[..., None]).astype(np.float32)


def low_band(pixels: Pixels) -> Band:
    """The means of 8×8 pixels of a whole H×W×3 picture."""
    size = Size(pixels.shape[1], pixels.shape[0])
    gathered = LowBand(size)
    for row in range(0, size.height, STRIP):
        gathered.put(row, pixels[row : row + STRIP])
    return gathered.band()


def lock(pixels: Pixels, wanted: Band, strength: float = 1.0, wrap: Wrap = OPEN) -> None:
    """Give `pixels` (float32 H×W×3, changed in place) the broad tones whose band is `wanted`, by `strength` in [0, 1].

    0 changes no bit. `wanted` comes from `low_band` or `LowBand` of a picture of the same size; ValueError for another.
    Beside the pixels, memory is that of a few bands. A constant or a linear drift is removed whole, but at the border, where a
    slope of s a pixel leaves 15·s. Along the axes of `wrap`, of multiples of 8 pixels, there is no border.
    """
    if strength == 0:
        return
    change = drift(wanted, low_band(pixels), wrap) * np.float32(strength)
    for row in range(0, len(pixels), STRIP):
        strip = pixels[row : row + STRIP]
        strip += widened(change, row, len(strip), pixels.shape[1], wrap)


def drift(wanted: Band, got: Band, wrap: Wrap = OPEN) -> Band:
    """What to add to the low band, smooth and free of what was repainted: as `wanted` and `got`, h×w×3."""
    if wanted.shape != got.shape:
        raise ValueError(f"a low band of {wanted.shape[1::-1]} cells for a picture of {got.shape[1::-1]}")
    differs = wanted - got
    found = _blurred(differs, wrap)
    for _ in range(ROUNDS):
        away = np.mean((differs - found) ** 2, axis=2, keepdims=True)
        weights = 1 / (1 + away / np.float32(TONE**2))
        found = _blurred(weights * differs, wrap) / _blurred(weights, wrap)
    return found


def widened(change: Band, row: int, rows: int, width: int, wrap: Wrap = OPEN) -> Pixels:
    """Rows `row` … `row + rows` of a band at full size, `rows`×`width`×3: cubic B-splines centred on the cells."""
    framed = np.pad(change, ((2, 2), (0, 0), (0, 0)), mode="wrap" if wrap.y else "symmetric")
    framed = np.pad(framed, ((0, 0), (2, 2), (0, 0)), mode="wrap" if wrap.x else "symmetric")
    first, taps = _spline(np.arange(row, row + rows))
    low, high = first[0], first[-1] + 4
    part = framed[low:high]
    tall = np.zeros((rows, *framed.shape[1:]), np.float32)
    for tap in range(4):
        tall += part[first - low + tap] * taps[tap][:, None, None]
    full = np.zeros((rows, change.shape[1], CELL, 3), np.float32)
    for phase in range(CELL):
        start, weights = _spline(np.array([phase]))
        for tap in range(4):
            begin = int(start[0]) + tap
            full[:, :, phase] += tall[:, begin : begin + change.shape[1]] * weights[tap][0]
    return full.reshape(rows, -1, 3)[:, :width]


def _spline(at: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """For pixels along an axis: the first of the four framed cells that count, and their weights."""
    place = (at + 0.5) / CELL - 0.5
    below = np.floor(place)
    t = place - below
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return below.astype(np.int64) + 1, [(w / 6).astype(np.float32) for w in weights]  # two cells of frame, one back


def _blurred(band: Band, wrap: Wrap = OPEN) -> Band:
    for spread in SPREADS:
        for axis, ring in ((0, wrap.y), (1, wrap.x)):
            band = _smoothed(band, spread, axis, ring=ring)
    return band


def _smoothed(band: Band, spread: int, axis: int, *, ring: bool = False) -> Band:
    """One à-trous level along one axis; the border mirrors, or on a ring there is none."""
    reach, length = 2 * spread, band.shape[axis]
    margins = [(reach, reach) if i == axis else (0, 0) for i in range(band.ndim)]
    framed = np.moveaxis(np.pad(band, margins, mode="wrap" if ring else "symmetric"), axis, 0)
    made = np.zeros_like(framed[:length])
    for tap, weight in enumerate(_KERNEL):
        made += framed[tap * spread : tap * spread + length] * np.float32(weight)
    return np.moveaxis(made, 0, axis)


def _counts(side: int) -> NDArray[np.int64]:
    return np.minimum(np.arange(0, side, CELL) + CELL, side) - np.arange(0, side, CELL)
