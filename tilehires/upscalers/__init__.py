"""Upscalers: Pillow's kernels, A1111's latent modes, and any model file that spandrel loads, behind one Protocol.

An upscaler is chosen by its name in the entry point group "tilehires.upscalers" (the built-in ones come the same way),
or by the path of a model file. An entry point names a `Factory`.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tilehires.config.known_models import UPSCALERS
from tilehires.errors import ConfigError, MissingError
from tilehires.upscalers.protocol import OVERLAP, Factory, Models, Upscaler

__all__ = ["OVERLAP", "Factory", "Models", "Upscaler", "check", "files", "names", "resolve"]

GROUP = "tilehires.upscalers"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


def names() -> tuple[str, ...]:
    """The names of all installed upscalers, sorted; imports none of them."""
    return tuple(sorted((entry.name for entry in _installed()), key=str.lower))


def resolve(name: str, models: Models | None = None) -> Upscaler:
    """The upscaler of that name (case doesn't matter), or of that model file; loads no weights yet.

    `models` lends the loaded weights; without it a model upscaler loads its own on first use.
    Raises ConfigError for an unknown name, MissingError for a model file that isn't there.
    """
    if entry := _entry(name):
        factory: Factory = entry.load()
        return factory(models)
    path = Path(name).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"There is no upscaler named {name!r}.", hint=_suggestion(name))
    if not path.is_file():
        raise MissingError(
            f"The upscaler model {path} is not there.",
            hint=f"Check the path; without a model file: {', '.join(names())}. {UPSCALERS}",
        )
    from tilehires.upscalers.model import ModelUpscaler

    return ModelUpscaler(path.name, path, models)


def files(name: str) -> tuple[Path, ...]:
    """The model files an upscaler's output depends on, for fingerprints; () for kernels. Raises as `resolve`."""
    return resolve(name).files


def check(name: str) -> None:
    """Make sure, before a run begins, that the upscaler works: a model file is loaded whole, and let go again.

    Raises ConfigError for an unknown name, MissingError for a file that is missing, broken, unsafe or no upscaler.
    """
    if paths := files(name):
        from tilehires.upscalers.model import load

        for path in paths:
            load(path)


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """Looked up once: it reads every installed package's list."""
    return tuple(entry_points(group=GROUP))


def _entry(name: str) -> EntryPoint | None:
    wanted = name.strip().lower()
    return next((entry for entry in _installed() if entry.name.lower() == wanted), None)


def _suggestion(name: str) -> str:
    known = names()
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in known], n=1)
    meant = next((f"Did you mean {one!r}? " for one in known if near and one.lower() == near[0]), "")
    return f"{meant}There are: {', '.join(known)}; or give a model file ({', '.join(SUFFIXES)})."
