"""Strangers' values made safe: bounded, of the right type, finite, valid Unicode; None for everything else.

Memory is bounded too: a text longer than LARGEST is no infotext, one longer than LARGEST_JSON is not parsed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tilehires.geometry import Size
from tilehires.metadata.a1111 import LARGEST

LARGEST_JSON = 4 << 20
"""Characters of JSON that are parsed; Python's objects for the worst of them (empty lists) take about 100 MB."""
MOST_SEED = 2**64 - 1
MOST_STEPS = 10_000


class Unreadable(Exception):  # noqa: N818 - not an error of ours: what an image says can't be understood
    """A tool's text is there and can't be read; the message says why, for the user."""


def load(text: str, what: str) -> Any:
    """JSON as Python objects. `what` names it in the message of Unreadable: too long, too deep, or damaged."""
    if len(text) > LARGEST_JSON:
        raise Unreadable(f"{what} has {len(text):,} characters, more than the {LARGEST_JSON:,} that are read")
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise Unreadable(f"{what} is nested too deep") from None
    except ValueError as error:  # also whole numbers of more than 4300 digits
        raise Unreadable(f"{what} is damaged JSON ({str(error)[:80]})") from None


def load_table(text: str, what: str) -> dict[str, Any]:
    """As `load`, and Unreadable where it is no JSON object."""
    found = load(text, what)
    if not isinstance(found, dict):
        raise Unreadable(f"{what} is no JSON object")
    return found


def is_table(text: str) -> bool:
    """Whether a text looks like a JSON object."""
    return text[:64].lstrip().startswith("{")


def words(value: Any) -> str | None:
    """A text: valid Unicode, no NUL; None for what is none, or has more than LARGEST characters."""
    if not isinstance(value, str) or len(value) > LARGEST:
        return None
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def other_words(said: Mapping[str, Any], read: frozenset[str]) -> dict[str, str]:
    """The texts of a table whose keys aren't among those `read`."""
    found = {words(str(key)) or "": words(value) for key, value in said.items() if key not in read}
    return {key: value for key, value in found.items() if key and value is not None}


def whole(value: Any, least: int, most: int) -> int | None:
    """A whole number in [least, most], also where it is written as text or as 20.0."""
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"-?\d{1,20}", value.strip()) else None
    elif isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= most else None


def number(value: Any, least: float = 0.0, most: float = 1e9) -> float | None:
    """A finite number in [least, most], also where it is written as text."""
    if isinstance(value, str):
        value = float(value) if re.fullmatch(r"-?\d{1,9}(\.\d{1,20})?", value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The range first: a whole number can be too large to become a float.
    return float(value) if least <= value <= most else None


def size(width: Any, height: Any) -> Size | None:
    """A size whose sides are 1 to 999999 pixels."""
    w, h = whole(width, 1, 999_999), whole(height, 1, 999_999)
    return Size(w, h) if w and h else None


def size_of(text: str | None) -> Size | None:
    """A1111's "512x768"."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text or "")
    return size(match[1], match[2]) if match else None


def stem(value: Any) -> str | None:
    """A model's name as A1111 writes it: no folder, no ending. "sub\\\\film.safetensors" is "film"."""
    name = words(value)
    if not name or len(name) > 1000:
        return None
    name = re.split(r"[\\/]", name)[-1].strip()
    return re.sub(r"(?i)\.(safetensors|ckpt|pth?|sft|gguf|bin)$", "", name) or None
