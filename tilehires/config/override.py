"""`--set section.key=value`: one setting from a command line."""

from __future__ import annotations

import tomllib
import types
from typing import Any, Literal, Union, get_args, get_origin

from tilehires.config.layers import check_names, sections
from tilehires.errors import ConfigError


def parse_set(text: str) -> dict[str, dict[str, Any]]:
    """One setting from "section.key=value", as a layer's values.

    The value is TOML (20, 0.3, true, "text", ["a", "b"]); what isn't TOML is text as it stands, and a setting that is a
    text takes 8 as "8". A list may be written a,b. Raises ConfigError on an unknown name, with what was probably meant.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {text!r} is not section.key=value.", hint="For example: --set hires.denoise=0.3")
    origin = f"--set {section}.{key}"
    check_names({section: {key: value}}, origin)
    return {section: {key: _value(value.strip(), sections()[section].model_fields[key].annotation)}}


def _value(text: str, annotation: Any) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        table = {}
    # More keys than one: a line break in the text, which is then no TOML value.
    value = table["value"] if set(table) == {"value"} else text
    if _is_list(annotation):
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(value, str) and _is_text(annotation):
        return text
    return value


def _is_list(annotation: Any) -> bool:
    """Whether a setting takes a list (or nothing) only."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(part is types.NoneType or _is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is tuple


def _is_text(annotation: Any) -> bool:
    """Whether a setting takes text (or nothing) only."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(part is types.NoneType or _is_text(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation is str
