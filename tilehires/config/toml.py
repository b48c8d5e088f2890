"""Settings as TOML text: what is in effect, with origins, and a file to start from. (tomllib only reads.)"""

from __future__ import annotations

import json
import math
import textwrap
from typing import Any

from tilehires.config.config import Config
from tilehires.config.detail import DetailSettings
from tilehires.config.layers import sections
from tilehires.config.section import Section


def effective_toml(config: Config) -> str:
    """All settings in effect, each with its origin as a comment. Reads back as the same settings."""
    blocks = []
    for name in sections():
        rows = []
        for key, value in _values(getattr(config.settings, name)).items():
            origin = config.origins[f"{name}.{key}"]
            # TOML has no null: what is open stays a comment.
            text = f"# {key}: not set" if value is None else f"{key} = {literal(value)}"
            rows.append((text, origin))
        width = min(48, max(len(text) for text, _ in rows))
        blocks.append("\n".join([f"[{name}]", *(f"{text:<{width}}  # {origin}" for text, origin in rows)]))
    return "\n\n".join(blocks) + "\n"


def starting_toml(config: Config, preset: str) -> str:
    """A preset to edit: it extends `preset`; every setting stands there, commented out, with what it means."""
    lines = [
        "# Settings of tilehires. Take the # away from what you want to change; docs/settings.md explains all of them.",
        f"# Use it with: tilehires run -c THIS_FILE (what isn't set here is as in the preset {preset}).",
        "",
        f"extends = {literal(preset)}",
    ]
    for name, section in sections().items():
        lines += ["", f"[{name}]"]
        for key, field in section.model_fields.items():
            value = _values(getattr(config.settings, name))[key]
            lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 110)]
            lines.append(f"# {key} = {'…' if value is None else literal(value)}")
    return "\n".join(lines) + "\n"


def _values(section: Section) -> dict[str, Any]:
    """A section's values. Of a detail pass only what is given: its detector's TOML says the rest."""
    values = section.model_dump()
    if isinstance(section, DetailSettings):
        values["passes"] = [one.model_dump(exclude_unset=True) for one in section.passes]
    return values


def literal(value: Any) -> str:
    """A TOML value. Raises TypeError on what a setting can't hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped and JSON leaves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(part)}" for key, part in value.items() if part is not None) + "}"
    raise TypeError(f"no setting holds a {type(value).__name__}")
