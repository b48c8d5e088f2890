"""Write docs/settings.md and docs/commands/*.md from the code: `python tools/make_docs.py` (tests/docs compares).

A page's text below the mark is written by hand and kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tilehires.cli import COMMANDS, cli
from tilehires.config.detail import DetailPass
from tilehires.config.layers import sections
from tilehires.config.presets import shipped
from tilehires.config.section import Section
from tilehires.config.toml import literal
from tilehires.diffusion import samplers

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARK = "<!-- The part above is made by tools/make_docs.py. -->"

PRECEDENCE = """\
# Settings

A setting is `section.key`, in a TOML file `[section]` and `key = value`. The first of these that names it wins:

1. a flag of the command line; any setting has one: `--set section.key=value`
2. a sidecar beside the image: `photo.toml` (any setting) or `photo.txt` (the prompt)
3. the preset named with `-c`
4. the image's own [metadata](metadata.md): prompt, negative prompt and seed always; steps, CFG, sampler, schedule,
   clip skip and LoRAs when the image's model family is the checkpoint's, or unknown
5. the preset `default`. What it tunes for the built-in model (steps, CFG, sampler, denoise, tiles) steps aside for a
   checkpoint of yours: then the values of that model family's preset, `sd15` or `sdxl`, stand here

`tilehires config show` prints the settings in effect, each with its origin; the report shows those of each image.
A preset, or any TOML given to `-c`, may begin with `extends = "sdxl"` (a preset's name or a path) and say only what
differs.
An unknown name is refused, with the name that was probably meant.
"""


def pages() -> dict[Path, str]:
    """Every generated page's text, hand-written parts included, by its path."""
    made = {DOCS / "settings.md": _settings(), DOCS / "samplers.md": _samplers()}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise LookupError(f"tilehires {name} is listed in COMMANDS, and there is no such command")
        made[DOCS / "commands" / f"{name}.md"] = "\n".join(_command(command, f"tilehires {name}", "#"))
    return {path: f"{text.rstrip()}\n\n{MARK}\n{_by_hand(path)}" for path, text in made.items()}


def _by_hand(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition(f"{MARK}\n")[2] if path.is_file() else ""


def _settings() -> str:
    lines = [PRECEDENCE, "## Presets", "| name | for |", "|---|---|"]
    for name, path in shipped().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"| [`{name}`](../configs/{path.name}) | {first.partition(':  ')[0].rstrip('.:')} |")
    for name, section in sections().items():
        lines += _table(f"[{name}]", f"{name}.", section)
    lines += _table("[[detail]]", "", DetailPass)
    return "\n".join(lines)


SAMPLERS = """\
# Samplers and schedules

Samplers go by AUTOMATIC1111's names, in any case, and are run by diffusers. Old names that carry the schedule
(`DPM++ 2M Karras`) are split; the names of ComfyUI, SwarmUI, InvokeAI and NovelAI are understood too. The same table on the
terminal: `tilehires models --samplers`. A sampler that there isn't is an error with the list when you name it; when an
image's metadata names it, it is left out with a note in the report.
"""


def _samplers() -> str:
    yes = {True: "yes", False: "–"}
    lines = [SAMPLERS, "## Samplers", "| name | run by | Automatic means | other names |", "|---|---|---|---|"]
    for name, row in samplers.SAMPLERS.items():
        arguments = "".join(f", {key}={value!r}" for key, value in row.arguments.items())
        others = ", ".join(f"`{alias}`" for alias, known in samplers.ALIASES.items() if known == name)
        lines.append(f"| {name} | `{row.scheduler}`{_cell(arguments)} | {row.automatic} | {others} |")
    lines += ["", *(f"{note}\n" for note in samplers.NOTES.values())]
    lines += ["## Schedules", "| sampler | " + " | ".join(samplers.SCHEDULES) + " |"]
    lines.append("|---" * (1 + len(samplers.SCHEDULES)) + "|")
    for name in samplers.SAMPLERS:
        lines.append(f"| {name} | " + " | ".join(yes[samplers.follows(name, one)] for one in samplers.SCHEDULES) + " |")
    lines += ["", "| schedule | in diffusers | other names |", "|---|---|---|"]
    special = {"Uniform": "as the checkpoint's own config says", "Align Your Steps": "`AysSchedules`, interpolated"}
    for name, arguments in samplers.SCHEDULES.items():
        said = special.get(name) or ", ".join(f"`{key}={value!r}`" for key, value in arguments.items())
        others = ", ".join(f"`{a}`" for a, known in samplers.SCHEDULE_ALIASES.items() if known == name != a)
        lines.append(f"| {name} | {said} | {others} |")
    lines += ["", "Align Your Steps is for SD 1.x, SD 2.x and SDXL.", "", "## What there isn't"]
    lines += [f"- {name}: {why or 'diffusers has none that equals it'}" for name, why in samplers.UNSUPPORTED.items()]
    return "\n".join(lines)


def _table(title: str, prefix: str, section: type[Section]) -> Iterator[str]:
    yield from ("", f"## {title}", inspect.cleandoc(section.__doc__ or ""), "")
    yield from ("| setting | default | values | meaning |", "|---|---|---|---|")
    properties = section.model_json_schema()["properties"]
    for key, field in section.model_fields.items():
        default = "–" if field.default is None or field.is_required() else f"`{literal(field.default)}`"
        yield f"| `{prefix}{key}` | {default} | {_allowed(properties[key])} | {_cell(field.description or '')} |"


def _allowed(schema: dict[str, Any]) -> str:
    """The values a setting takes, in words, from its JSON schema."""
    if "anyOf" in schema:
        forms = [_allowed(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(forms)
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema.get("type") == "array" and "$ref" in schema.get("items", {}):
        return "list of names or tables"
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] in ("integer", "number"):
        kind = "whole number" if schema["type"] == "integer" else "number"
        words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        return " ".join(
            [kind, " and ".join(f"{sign} {_number(schema[key])}" for key, sign in words.items() if key in schema)]
        )
    return {"boolean": "true, false", "array": "list of texts", "string": "text", "object": "table of numbers"}[
        schema["type"]
    ]


def _number(value: float) -> str:
    return "2^64 − 1" if value == 2**64 - 1 else f"{value:g}" if isinstance(value, float) else str(value)


def _command(command: click.Command, path: str, heading: str) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield f"{heading} {path}"
    yield inspect.cleandoc(command.help or "")
    yield ""
    yield "```"
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```"
    options = [param for param in command.params if isinstance(param, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield ""
        yield "| option | meaning |"
        yield "|---|---|"
        for option, text in records:
            yield f"| `{_cell(option)}` | {_cell(text)} |"
    yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _command(child, f"{path} {name}", heading + "#")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
