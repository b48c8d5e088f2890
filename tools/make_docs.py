"""Write the settings, samplers, commands and error messages of docs/ from the code: `python tools/make_docs.py`.

tests/docs compares.
A page's text below the mark is written by hand and kept.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tilehires import errors
from tilehires.cli import COMMANDS, cli
from tilehires.config.detail import DetailPass
from tilehires.config.layers import sections
from tilehires.config.presets import shipped
from tilehires.config.section import Section
from tilehires.config.toml import literal
from tilehires.diffusion import samplers

PACKAGE = Path(__file__).resolve().parent.parent / "tilehires"
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
    made[DOCS / "when-something-goes-wrong.md"] = "\n".join(_errors())
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


WRONG = """\
# When something goes wrong

Every error has two parts, on the terminal and in the report: what is wrong (`error:`) and what to do next (`hint:`). The
[exit code](exit-codes.md) says the same to scripts.

## Where to look
1. The last lines of the run: what became of every image that failed, was flagged or skipped.
2. `OUTPUT/report/index.html`: the same with pictures and each image's settings. `OUTPUT/report/summary.json`: in short.
3. `OUTPUT/.tilehires/runs/`: one log for each run, with the traceback of whatever was unexpected.
4. `tilehires doctor`: versions, device, memory, what is missing. `tilehires plan INPUT`: what would be done, before it is.

## What to do first
- **It was stopped or killed, or the power went.** The same command goes on where it was. What is finished isn't done again.
- **Some images failed (3).** Put right what their lines say, then the same command: it takes what is new, changed or failed.
- **The disk is full (2).** Free some space, then the same command. `tilehires plan` says what a run needs, `tilehires clean`
  empties the cache.
- **Images are flagged.** [What the checks mean](checks.md). Mark them on the report page, or let `check.action` act.
- **One image hangs.** `--set run.image_time_limit=1800` gives it up after half an hour and goes on with the next.
- **Memory runs out.** The run does less at once by itself, and takes smaller tiles at last, which is flagged. With
  `--vram 8GB` it plans for less from the start.
- **Another run works on this folder (6).** Wait, or take another output folder. The lock of a killed run doesn't stay.
- **An object store can't be reached (2).** The same command once it can: what was made lies on this machine and is put first.
  A lock that a killed run left in a store is taken over after half a minute.
- **"unexpected …", "This is a bug" (1, or an image that failed).** Once more with `-v`; please report the traceback.
- **A result is wrong and comes again.** `--force hires` does a stage and all after it anew. Damaged caches and records are
  found, and made again by themselves.

What the program can't read as a command line (an unknown option, a time that is none) ends with exit code 2 and points to
`--help`. Below is every other message, the changing parts as `…`.
"""

KINDS = {
    "ImageError": "One image can't be done; it is in the report, and the others go on",
    "MissingError": "A model or a dependency is missing, or isn't what it claims to be",
    "ConfigError": "A setting, a file of settings or an option is wrong",
    "RunError": "The run can't begin, or can't go on",
    "NothingToDoError": "There is nothing to do",
    "DiskFullError": "The disk is full",
    "LockedError": "Another run is at work",
    "Interrupted": "The run was ended",
}


def _errors() -> Iterator[str]:
    """Every TilehiresError that the package raises, read from its source."""
    rows = {kind: dict[str, dict[str, None]]() for kind in KINDS}
    paths = sorted(PACKAGE.rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    kinds = {kind: kind for kind in KINDS}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in classes:  # a class may be derived from one that comes later
        for one in classes:
            base = next((kinds[b.id] for b in one.bases if isinstance(b, ast.Name) and b.id in kinds), None)
            if base and one.name not in kinds:
                kinds[one.name] = base
    for path, tree in zip(paths, trees, strict=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                hint = next((word.value for word in node.keywords if word.arg == "hint"), None)
                todo = (_texts(hint, tree) or ["…"]) if hint else []
                said = node.args[-1]  # a misfit names its LoRA first
                messages = _texts(said, tree)
                passed_on = isinstance(said, ast.Attribute | ast.Subscript)  # error.message, said["error"]
                if not messages and not passed_on:
                    raise LookupError(f"{path}:{node.lineno}: the message can't be read from the source")
                for message in messages:
                    rows[kinds[node.func.id]].setdefault(message, {}).update(dict.fromkeys(todo))
    yield WRONG
    for kind, title in KINDS.items():
        code = getattr(errors, kind).exit_code
        yield f"## {title} (exit code {int(code)})"
        yield "| message | what to do |"
        yield "|---|---|"
        for message, todo in sorted(rows[kind].items(), key=lambda row: row[0].strip("…'\" ").lower()):
            ticks = "``" if "`" in message else "`"
            hints = _cell(" / ".join(todo)).replace("<", "&lt;").replace("*", "\\*")
            yield f"| {ticks}{_cell(message)}{ticks} | {hints or '–'} |"
        yield ""


def _texts(node: ast.AST, tree: ast.Module, depth: int = 0) -> list[str]:
    """The texts that an expression may give, changing parts as …; none where it passes another error's on."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)]
        case ast.BinOp(left=left, right=right):
            return [a + b for a in _texts(left, tree, depth) or ["…"] for b in _texts(right, tree, depth) or ["…"]]
        case ast.IfExp(body=body, orelse=other):
            return [*_texts(body, tree, depth), *_texts(other, tree, depth)]
        case ast.BoolOp(values=values):
            return [text for value in values for text in _texts(value, tree, depth)]
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)) if depth < 3:
            return [text for value in _values(name, tree) for text in _texts(value, tree, depth + 1)]
    return []


def _values(name: str, tree: ast.Module) -> Iterator[ast.AST]:
    """What a module gives to a name, or what its function of that name returns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets):
            yield node.value
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value)


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
