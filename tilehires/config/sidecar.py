"""Settings beside an image: photo.toml (any setting) and photo.txt (the prompt)."""

from __future__ import annotations

import re
from pathlib import Path

from tilehires.config.layers import Layer, Rank
from tilehires.config.presets import LARGEST, read_file
from tilehires.errors import ConfigError


def read_sidecar(path: Path) -> Layer:
    """The layer of one sidecar, named after its file. Raises ConfigError on unknown names and on what is no text."""
    if not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path} is no file any more.", hint="Put it back, or run it again without.")
    if path.suffix.lower() == ".toml":
        return read_file(path, f"sidecar {path.name}", Rank.SIDECAR)
    return Layer(Rank.SIDECAR, f"sidecar {path.name}", {"generate": _prompts(_text(path))})


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST} bytes: no prompt.", hint="Is it the right file?")
        return path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", hint="Check its rights.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error


def _prompts(text: str) -> dict[str, str]:
    """The prompt, and the negative prompt where there is one. Empty text says nothing: the metadata then counts.

    The web UIs can leave their infotext beside each image, under this very name: its parameter line is no prompt.
    """
    text = re.sub(r"(?m)^Steps: \d+, [^\n]*\Z", "", text).strip()
    prompt, *negative = re.split(r"(?m)^Negative prompt:", text, maxsplit=1)
    found = {"prompt": prompt.strip(), "negative_prompt": "".join(negative).strip()}
    return {key: value for key, value in found.items() if value}
