"""The tile engine: grids, windows, and denoisers and VAEs that work tile by tile. Importing it costs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilehires.tiling.pipeline import tiled

__all__ = ["tiled"]


def __getattr__(name: str) -> Any:
    """`tiled` on first use: tiling.grid is imported by modules that must not load torch."""
    if name == "tiled":
        from tilehires.tiling.pipeline import tiled

        return tiled
    raise AttributeError(f"module 'tilehires.tiling' has no attribute {name!r}")
