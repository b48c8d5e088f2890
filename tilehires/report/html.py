"""What our pages have in common: one file with style, scripts and data inside, no network, and text that stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tilehires.files import atomic

EXACT_IN_JAVASCRIPT = 2**53


def url(folder: str, path: str) -> str:
    """A link to a file, percent-encoded: it holds no character that HTML or a URL scheme gives a meaning."""
    start = Path(folder)
    base = start.as_uri() if start.is_absolute() else quoted(start.as_posix())
    return f"{base}/{quoted(path)}"


def quoted(path: str) -> str:
    # fsencode: a name that isn't UTF-8 reaches Python as surrogates, and its bytes are what the link must hold.
    return quote(os.fsencode(path), safe="/")


def plain(value: Any) -> Any:
    """The same value in JSON that a browser parses without loss: no NaN, no integer beyond 2^53 (seeds are 63 bits)."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > EXACT_IN_JAVASCRIPT:
        return str(value)
    return value


def render(template: str, styles: Sequence[str], scripts: Sequence[str], data: Mapping[str, Any], **more: Any) -> bytes:
    """A page from files of this package; `data` is plain JSON for its scripts, `more` is for the template.

    Its Content-Security-Policy names just these styles and scripts.
    """
    # Imported here: commands that make no page shouldn't wait for jinja2.
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = files("tilehires.report")
    style, script = (
        "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in n) for n in (styles, scripts)
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made = environment.from_string(package.joinpath(template).read_text(encoding="utf-8"))
    html = made.render(
        data=Markup(_script_json(data)),
        style=Markup(style),
        script=Markup(script),
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        **more,
    )
    return html.encode("utf-8")


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: ASCII, and no character that could end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _content_hash(text: str) -> str:
    """The name a Content-Security-Policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def replace(path: Path, content: bytes) -> Path:
    """Write a file at once: a browser that reloads meanwhile sees the old page or the new one."""
    with atomic(path) as stream:
        stream.write(content)
    return path
