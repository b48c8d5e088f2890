"""AUTOMATIC1111's prompt syntax, taken apart: tags, AND, schedules and alternation, emphasis and BREAK. Text in, text out.

Pure, never fails, and takes time linear in the text's length (times the steps where it is scheduled), whatever strangers
put into an image's metadata. Brackets that don't pair never make a schedule; as emphasis they close at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Section = tuple["Fragment", ...]
"""Fragments between two BREAKs."""

STRONGEST = 100.0
"""Weights are held within ± this: beyond it embeddings overflow, and no picture is meant."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20}))\s*")
_PIECE = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_EMPHASIS = re.compile(r":\s{0,20}([+-]?[.\d]{1,20})\s{0,20}\)")
_CLOSERS = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Tag:
    """`<kind:name:argument:…>`, such as `<lora:style:0.8>`; `arguments` as they are written."""

    kind: str
    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One of the prompts that AND joins, with its weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Fragment:
    """Text whose tokens all have one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Count:
    """How numbers in schedules are counted: `steps` of this pass, after `before` steps of the first.

    A whole number is a step of both passes together, a fraction is one of this pass: 0–1 in the first pass, 1–2 in any
    later one, so that `[a:b:0.5]` is plain b there.
    """

    steps: int
    before: int = 0
    later: bool = False

    def step(self, number: str) -> int:
        """The last step of this pass (from 1) before the change."""
        value = float(number)
        value = (value - self.later) * self.steps if "." in number else value - self.before
        return min(self.steps, int(value))


def without_tags(text: str) -> tuple[str, tuple[Tag, ...]]:
    """(the prompt without its `<kind:…>` tags, the tags in order)."""
    found: list[Tag] = []
    kept: list[str] = []
    position = 0
    while (start := text.find("<", position)) >= 0:
        end = text.find(">", start)
        if end < 0:
            break
        kind, colon, rest = text[start + 1 : end].partition(":")
        name, *arguments = rest.split(":")
        if colon and name.strip() and re.fullmatch(r"\w{1,40}", kind):
            kept.append(text[position:start])
            found.append(Tag(kind.lower(), name.strip(), tuple(argument.strip() for argument in arguments)))
            position = end + 1
        else:
            kept.append(text[position : start + 1])
            position = start + 1
    return "".join([*kept, text[position:]]), tuple(found)


def parts(text: str) -> tuple[Part, ...]:
    """The prompts that AND joins; `a AND b :0.5` gives the second half a weight. Without AND there are no weights."""
    pieces = re.split(r"\bAND\b", text)
    return (Part(text),) if len(pieces) == 1 else tuple(_weighted(piece) for piece in pieces)


def _weighted(text: str) -> Part:
    before, colon, tail = text.rpartition(":")
    number = _NUMBER.fullmatch(tail) if colon and len(tail) < 64 else None
    return Part(before.rstrip(), float(number[1])) if number else Part(text)


def at_each_step(text: str, count: Count) -> tuple[str, ...]:
    """The prompt at each step of a pass: `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]` resolved."""
    tree = _tree(text, count)
    if not any(isinstance(node, _Schedule | _Alternation) for node in _walk(tree)):
        return (text,) * count.steps
    return tuple(_rendered(tree, step) for step in range(1, count.steps + 1))


def emphasis(text: str) -> tuple[Section, ...]:
    """The sections between BREAKs, each as fragments with their weights; always one section at least.

    `(x)` ×1.1, `[x]` ÷1.1, `(x:1.2)`; nested they multiply; what isn't closed closes at the end; `\\(` is a bracket.
    """
    texts, factors = _marked(text)
    weights = np.ones(len(texts))
    with np.errstate(over="ignore", invalid="ignore"):
        for start, end, factor in factors:
            weights[start:end] *= factor
    weights = np.nan_to_num(weights).clip(-STRONGEST, STRONGEST)
    sections: list[list[Fragment]] = [[]]
    for piece, weight in zip(texts, weights.tolist(), strict=True):
        if piece is None:
            sections.append([])
        elif sections[-1] and sections[-1][-1].weight == weight:
            sections[-1][-1] = Fragment(sections[-1][-1].text + piece, weight)
        elif piece:
            sections[-1].append(Fragment(piece, weight))
    return tuple(tuple(section) for section in sections)


def unpaired(text: str) -> int:
    """How many brackets are without their partner."""
    alone, opened = 0, []
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece in "([":
            opened.append(piece)
        elif piece in _CLOSERS:
            if opened and opened[-1] == _CLOSERS[piece]:
                opened.pop()
            else:
                alone += 1
    return alone + len(opened)


def unheard(text: str) -> tuple[str, ...]:
    """A note for each part of this syntax that a prompt uses, for whoever gives it to a pipeline of diffusers.

    Those (Flux, SD3, Qwen-Image, … under `tiled`, and the stock pipelines of SD and SDXL) read all of it as plain text.
    """
    text, tags = without_tags(text)
    schedules = [node for node in _walk(_tree(text, Count(20))) if not isinstance(node, str)]
    sections = emphasis(at_each_step(text, Count(1))[0])
    used = {
        "weights such as (word:1.2)": any(one.weight != 1 for section in sections for one in section),
        "BREAK": len(sections) > 1,
        "AND": len(parts(text)) > 1,
        "schedules such as [from:to:when]": any(isinstance(node, _Schedule) for node in schedules),
        "alternation, [a|b]": any(isinstance(node, _Alternation) for node in schedules),
        "tags such as <lora:name:0.8>": bool(tags),
    }
    return tuple(f"{name}: this pipeline takes it as plain text" for name, is_used in used.items() if is_used)


def _marked(text: str) -> tuple[list[str | None], list[tuple[int, int, float]]]:
    """(pieces of plain text, None for a BREAK; factors of ranges of them, in the order in which brackets close)."""
    pieces: list[str | None] = []
    factors: list[tuple[int, int, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    position = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        piece = match[0] if match else text[position]
        weight = _EMPHASIS.match(text, position) if piece == ":" and opened["("] else None
        if weight and (number := _NUMBER.fullmatch(weight[1])):
            factors.append((opened["("].pop(), len(pieces), float(number[1])))
            position = weight.end()
            continue
        position += len(piece)
        if piece in opened:
            opened[piece].append(len(pieces))
        elif piece in _CLOSERS and opened[_CLOSERS[piece]]:
            factor = 1.1 if piece == ")" else 1 / 1.1
            factors.append((opened[_CLOSERS[piece]].pop(), len(pieces), factor))
        elif piece[0] == "\\":
            pieces.append(piece[1:])
        else:
            first, *others = re.split(r"\bBREAK\b", piece)
            pieces.append(first)
            for other in others:
                pieces += [None, other]
    factors += [(start, len(pieces), 1.1) for start in opened["("]]
    factors += [(start, len(pieces), 1 / 1.1) for start in opened["["]]
    return pieces, factors


@dataclass(frozen=True, slots=True)
class _Schedule:
    """`before` up to and with step `until`, then `after`."""

    before: _Nodes
    after: _Nodes
    until: int


@dataclass(frozen=True, slots=True)
class _Alternation:
    """One after the other, step by step."""

    options: tuple[_Nodes, ...]


_Nodes: TypeAlias = "list[str | _Schedule | _Alternation | _Nodes]"


@dataclass(slots=True)
class _Open:
    """A bracket that is open: what stands in it, in parts, and what separates them. `broken`: holds a bracket alone."""

    bracket: str
    parts: list[_Nodes] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)
    broken: bool = False

    def literal(self, closer: str) -> _Nodes:
        nodes: _Nodes = [self.bracket, self.parts[0]]
        for separator, part in zip(self.separators, self.parts[1:], strict=True):
            nodes += [separator, part]
        return [*nodes, closer]


def _tree(text: str, count: Count) -> _Nodes:
    stack = [_Open("")]
    for match in _PIECE.finditer(text):
        piece, top = match[0], stack[-1]
        if piece in ("(", "["):
            stack.append(_Open(piece))
        elif piece in _CLOSERS and top.bracket == _CLOSERS[piece]:
            stack.pop()
            stack[-1].broken |= top.broken
            stack[-1].parts[-1].append(_closed(top, piece, count))
        elif piece in (":", "|") and top.bracket == "[":
            top.separators.append(piece)
            top.parts.append([])
        else:
            top.broken |= piece in _CLOSERS
            top.parts[-1].append(piece)
    while len(stack) > 1:
        top = stack.pop()
        stack[-1].parts[-1].append(top.literal(""))
    return stack[0].parts[0]


def _closed(group: _Open, closer: str, count: Count) -> _Nodes | _Schedule | _Alternation:
    if group.bracket == "[" and group.separators and not group.broken:
        last = "".join(node for node in group.parts[-1] if isinstance(node, str))
        number = _NUMBER.fullmatch(last) if all(isinstance(node, str) for node in group.parts[-1]) else None
        if group.separators[-1] == ":" and number and group.separators.count(":") <= 2:
            texts = _joined(group)
            return _Schedule(texts[0] if len(texts) == 2 else [], texts[-1], count.step(number[1]))
        if ":" not in group.separators:
            return _Alternation(tuple(group.parts))
    return group.literal(closer)


def _joined(group: _Open) -> list[_Nodes]:
    """The parts between colons, without the number; other separators are text there."""
    joined = [group.parts[0]]
    for separator, part in zip(group.separators[:-1], group.parts[1:-1], strict=True):
        if separator == ":":
            joined.append(part)
        else:
            joined[-1] = [joined[-1], separator, part]
    return joined


def _walk(tree: _Nodes) -> Sequence[str | _Schedule | _Alternation]:
    found: list[str | _Schedule | _Alternation] = []
    pending: _Nodes = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        else:
            found.append(node)
    return found


def _rendered(tree: _Nodes, step: int) -> str:
    """The text at a step, counted from 1. Without recursion: strangers nest thousands of brackets."""
    out: list[str] = []
    pending: _Nodes = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, list):
            pending += reversed(node)
        elif isinstance(node, _Schedule):
            pending.append(node.before if step <= node.until else node.after)
        else:
            pending.append(node.options[(step - 1) % len(node.options)])
    return "".join(out)
