"""Layers of settings, and the one way they are merged, checked and blamed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tilehires.config.detail import DetailPass
from tilehires.config.section import Section
from tilehires.config.settings import Settings
from tilehires.errors import ConfigError

Values = Mapping[str, Mapping[str, Any]]


class Rank(IntEnum):
    """Where values come from; the higher wins, and within one rank the later."""

    FAMILY = 0  # what suits the checkpoint's model family
    DEFAULT = 1  # the default preset
    METADATA = 2  # the image's own
    PRESET = 3  # -c
    SIDECAR = 4  # photo.toml, photo.txt
    FLAG = 5  # the command line


@dataclass(frozen=True)
class Layer:
    """`values` by section and key, all from `origin`, such as "flag --scale" or "preset sd15"."""

    rank: Rank
    origin: str
    values: Values


def sections() -> dict[str, type[Section]]:
    """The sections by name, in the order of the documentation."""
    found: dict[str, type[Section]] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found


def merge(layers: Iterable[Layer]) -> tuple[Settings, dict[str, str]]:
    """Settings and the origin of each ("section.key" → text; "default" where no layer says anything).

    Raises ConfigError on a value of the wrong type or out of range, naming key, value, origin and what is allowed.
    """
    merged: dict[str, dict[str, Any]] = {name: {} for name in sections()}
    origins = {f"{name}.{key}": "default" for name, section in sections().items() for key in section.model_fields}
    for layer in sorted(layers, key=lambda layer: layer.rank):
        for section, values in layer.values.items():
            for key, value in values.items():
                merged[section][key] = value
                origins[f"{section}.{key}"] = layer.origin
    try:
        return Settings.model_validate(merged), origins
    except ValidationError as error:
        raise _explained(error.errors(), origins) from None


def check_names(values: Mapping[str, Any], origin: str) -> None:
    """Raises ConfigError on an unknown section or key, with the nearest known ones as the hint."""
    known = sections()
    for name, keys in values.items():
        if name not in known:
            raise _unknown(name, keys, origin)
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{origin}: {name} is a section, not a value.", hint=f"Write [{name}], then its keys.")
        for key in keys:
            if key not in known[name].model_fields:
                raise _unknown(f"{name}.{key}", keys[key], origin)


DISTILLED = ("distilled_cfg", "distilled_cfg_scale")
"""Forge's names for the guidance that Flux-like models take as an input."""


def _unknown(name: str, value: object, origin: str) -> ConfigError:
    """What may be meant by an unknown name: one spelt alike in its section, the same key elsewhere, one spelt alike."""
    section, _, key = name.rpartition(".")
    if key in DISTILLED:
        return ConfigError(
            f"{origin}: there is no setting {name}: no model that tilehires samples itself has distilled guidance.",
            hint="For Flux use its diffusers pipeline under `tiled`, with guidance_scale=3.5 (docs/tiled.md).",
        )
    known = {f"{s}.{k}": k for s, model in sections().items() for k in model.model_fields}
    if isinstance(value, Mapping) and not section:
        near = [f"[{match}]" for match in difflib.get_close_matches(name, list(sections()), n=1)]
        hint = f"Did you mean {near[0]}?" if near else f"Sections are {', '.join(sections())}."
        return ConfigError(f"{origin}: there is no section [{name}].", hint=hint)
    own = [known[full] for full in known if full.startswith(f"{section}.")]
    alike = difflib.get_close_matches(key, own, n=1, cutoff=0.75) or [k for k in own if k in key.split("_")]
    near = [f"{section}.{match}" for match in alike]
    near += [full for full, known_key in known.items() if known_key == key]
    near = near or difflib.get_close_matches(name, list(known), n=2) or _by_key(key, known)
    hint = f"Did you mean {' or '.join(dict.fromkeys(near))}?" if near else "docs/settings.md lists all of them."
    return ConfigError(f"{origin}: there is no setting {name}.", hint=hint)


def _of_a_pass(error: ErrorDetails, origin: str) -> ConfigError:
    """An error inside of [[detail]]."""
    number, *rest = error["loc"][2:]
    where = f"[[detail]] no. {int(number) + 1} ({origin})"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(rest[-1]), list(DetailPass.model_fields), n=1)
        hint = f"Did you mean {near[0]}?" if near else "docs/settings.md lists what a pass may say."
        return ConfigError(f"{where}: there is no setting {rest[-1]}.", hint=hint)
    if error["type"] == "missing":
        return ConfigError(f"{where} names no detector.", hint='For example: detector = "face"')
    if not rest:
        return ConfigError(f"{where}: {error['msg'].removeprefix('Value error, ')}.", hint="See docs/settings.md.")
    message = error["msg"].removeprefix("Input should be ").partition(", unable")[0]
    message = message.replace("less than or equal to", "at most").replace("greater than or equal to", "at least")
    field = DetailPass.model_fields.get(str(rest[0]))
    given = f"{rest[0]} = {str(error['input'])[:80]}"
    return ConfigError(f"{where}: {given} must be {message}.", hint=(field and field.description) or "")


def _by_key(key: str, known: Mapping[str, str]) -> list[str]:
    keys = difflib.get_close_matches(key, set(known.values()), n=1)
    return [full for full, known_key in known.items() if known_key in keys]


def _explained(errors: Sequence[ErrorDetails], origins: Mapping[str, str]) -> ConfigError:
    """pydantic's first error in the user's words."""
    error = errors[0]
    name = ".".join(str(part) for part in error["loc"][:2])
    section, _, key = name.partition(".")
    if section == "detail" and len(error["loc"]) > 2:
        return _of_a_pass(error, origins[name])
    if name not in origins:  # settings.py's own rules: they begin with the key
        rule = error["msg"].removeprefix("Value error, ")
        return ConfigError(f"{name}.{rule}.", hint="`tilehires config show` says where each setting comes from.")
    message = error["msg"].removeprefix("Input should be ").partition(", unable")[0]
    message = message.replace("less than or equal to", "at most").replace("greater than or equal to", "at least")
    description = sections()[section].model_fields[key].description or ""
    given = f"{name} = {str(error['input'])[:80]} ({origins[name]})"
    if error["type"] == "value_error":
        return ConfigError(f"{given}: {error['msg'].removeprefix('Value error, ')}.", hint=description)
    # A choice of forms ("auto" or an amount): the description says which.
    if len(error["loc"]) > 2 or error["type"] == "string_pattern_mismatch":
        return ConfigError(f"{given} is not understood.", hint=description)
    return ConfigError(f"{given} must be {message}.", hint=description)
