"""tilehires: a folder of AI images in, finished, checked, high-resolution images out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilehires.batch.runner import run
    from tilehires.config import Config

__all__ = ["Config", "__version__", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `import tilehires` costs nothing, torch is loaded by what needs it."""
    if name == "Config":
        from tilehires.config import Config

        return Config
    if name == "run":
        from tilehires.batch.runner import run

        return run
    raise AttributeError(f"module 'tilehires' has no attribute {name!r}")
