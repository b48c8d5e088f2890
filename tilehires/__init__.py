"""tilehires: a folder of AI images in, finished, checked, high-resolution images out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = [
    "BeforeSampling",
    "BeforeSecondPass",
    "Callbacks",
    "Config",
    "Hook",
    "SamplingChange",
    "SecondPassChange",
    "__version__",
    "generate",
    "run",
]
__version__ = "0.1.0"

_CALLBACKS = ("BeforeSampling", "BeforeSecondPass", "Callbacks", "Hook", "SamplingChange", "SecondPassChange")
_HOMES = {
    "Config": "tilehires.config",
    "generate": "tilehires.batch.runner",
    "run": "tilehires.batch.runner",
    **dict.fromkeys(_CALLBACKS, "tilehires.callbacks"),
}

BeforeSampling: Any
BeforeSecondPass: Any
Callbacks: Any
Config: Any
Hook: Any
SamplingChange: Any
SecondPassChange: Any
generate: Callable[..., Any]
run: Callable[..., Any]


def __getattr__(name: str) -> Any:
    """Import on first use: `import tilehires` costs nothing, torch is loaded by what needs it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tilehires' has no attribute {name!r}")
