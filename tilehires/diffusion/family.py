"""What is known of each model family before any weights are read."""

from __future__ import annotations

import bisect
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A family of checkpoints that share their latent space and their parts.

    Sizes in pixels. `multiple`: tile sizes and starts are multiples of it, in latent cells (the UNet's deepest level).
    `bytes_per_cell`: work memory of the UNet per latent cell and batch entry at 16 bits, measured over 64–256 cells.
    """

    name: str
    title: str
    native: int
    tile_min: int
    tile_max: int
    multiple: int
    bytes_per_cell: float
    teraflops: tuple[tuple[int, float], ...] = ()
    """Work of one forward call by tile side in cells, measured on meta tensors; empty: in proportion to the area."""

    def cost(self, width: int, height: int) -> float:
        """Work of one tile of that many cells, in proportion: interpolated along the area between measured sides."""
        area = float(width * height)
        if not self.teraflops:
            return area
        areas = [float(side**2) for side, _ in self.teraflops]
        i = min(max(bisect.bisect(areas, area), 1), len(areas) - 1)
        (low, high), (a, b) = areas[i - 1 : i + 1], (self.teraflops[i - 1][1], self.teraflops[i][1])
        return max(a + (b - a) * (area - low) / (high - low), a * min(1.0, area / low))


_SD1 = ((64, 0.80), (96, 2.15), (128, 4.67), (192, 16.0), (256, 42.2))
_SDXL = ((64, 1.59), (96, 3.64), (128, 6.76), (192, 17.3), (256, 35.9))
_REFINER = ((64, 1.62), (96, 3.82), (128, 7.29), (192, 19.6), (256, 43.0))

BUILTIN = Family("builtin", "the built-in model", 128, 192, 512, 8, 0.82 * 1024)
SD1 = Family("sd1", "Stable Diffusion 1.x", 512, 448, 768, 8, 16.25 * 1024, _SD1)
SD2 = Family("sd2", "Stable Diffusion 2.x", 768, 448, 768, 8, 16.25 * 1024, _SD1)
SDXL = Family("sdxl", "Stable Diffusion XL", 1024, 832, 1152, 8, 9.84 * 1024, _SDXL)
REFINER = Family("sdxl-refiner", "SDXL's refiner", 1024, 832, 1152, 8, 11.81 * 1024, _REFINER)
FAMILIES = {family.name: family for family in (SD1, SD2, SDXL, REFINER)}
