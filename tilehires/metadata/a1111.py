"""AUTOMATIC1111's infotext: a prompt, a negative prompt, and a line of "Key: value" pairs.

Other parsers split values at commas; this one reads quoted values whole, keeps the keys it doesn't know, and takes time
linear in the text's length whatever strangers put in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NEGATIVE = "Negative prompt:"
LARGEST = 1 << 20
"""Characters; a longer text is no infotext."""

_LEAST_PAIRS = 3
_KEY_TAIL = re.compile(r"[\w \-/]{1,100}\Z")  # of the text before a colon; no key is longer
_BLANKS = re.compile(r"\s*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])*+"\s*(?=,|$)')


@dataclass(frozen=True)
class Infotext:
    """An infotext taken apart. `fields` keep their order, values unquoted. `trailing`: foreign lines after them."""

    prompt: str = ""
    negative_prompt: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    trailing: str = ""


def parse(text: str) -> Infotext:
    """Take an infotext apart; a text without a line of pairs is all prompt. Never fails.

    The last line with pairs is taken, three at least; where other lines follow it, it must name the steps.
    """
    lines = text[:LARGEST].replace("\r\n", "\n").strip().split("\n")
    at, fields = _find_pairs(lines)
    prompt, negative = _split_prompts(lines[:at])
    return Infotext(prompt, negative, fields, "\n".join(lines[at + 1 :]))


def format(infotext: Infotext) -> str:
    """The text that `parse`, A1111's "PNG Info" and Civitai read back."""
    lines = [infotext.prompt]
    if infotext.negative_prompt:
        lines.append(f"{NEGATIVE} {infotext.negative_prompt}")
    if infotext.fields:
        lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in infotext.fields.items()))
    if infotext.trailing:
        lines.append(infotext.trailing)
    return "\n".join(lines)


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """The "Key: value" pairs of one line, values unquoted."""
    position = 0
    while (colon := line.find(":", position)) >= 0:
        found = _KEY_TAIL.search(line, max(position, colon - 101), colon)
        key = found[0].strip(" -/") if found else ""
        position = colon + 1
        if len(key) < 2:
            continue
        start = _BLANKS.match(line, position).end()  # pyright: ignore[reportOptionalMemberAccess] - it always matches
        quoted = _QUOTED.match(line, start)
        end = quoted.end() if quoted else line.find(",", start)
        end = len(line) if end < 0 else end
        yield key, _unquoted(line[start:end].strip())
        position = end + 1


def _find_pairs(lines: list[str]) -> tuple[int, dict[str, str]]:
    """(index of the line of pairs, its pairs); (number of lines, {}) if there is none."""
    for at in range(len(lines) - 1, -1, -1):
        if ":" not in lines[at] or lines[at].startswith(NEGATIVE):
            continue
        fields = dict(pairs(lines[at]))
        if len(fields) >= _LEAST_PAIRS and (at == len(lines) - 1 or "Steps" in fields):
            return at, fields
    return len(lines), {}


def _split_prompts(lines: list[str]) -> tuple[str, str]:
    stripped = [line.strip() for line in lines]
    at = next((i for i, line in enumerate(stripped) if line.startswith(NEGATIVE)), len(stripped))
    negative = [line.removeprefix(NEGATIVE).strip() for line in stripped[at:]]
    return "\n".join(stripped[:at]).strip(), "\n".join(negative).strip()


def _quoted(value: str) -> str:
    if re.search(r'[,:\n\r"]', value) or value != value.strip():
        return json.dumps(value, ensure_ascii=False)
    return value


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        try:
            loaded = json.loads(value, strict=False)
        except ValueError:
            return value
        return loaded if isinstance(loaded, str) else value
    return value
