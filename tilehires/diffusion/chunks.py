"""From weighted text to the rows of tokens that a CLIP text encoder reads: 75 at a time, as AUTOMATIC1111 cuts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tilehires.diffusion.syntax import Section
from tilehires.errors import ImageError

LENGTH = 75
BACKTRACK = 20
"""A chunk that is full ends at its last comma, if that is at most so many tokens back; what follows it moves on."""
MOST = 64
"""Chunks; nobody means a longer prompt, and each is attended to by every pixel."""


@dataclass(frozen=True)
class Chunk:
    """Up to 75 tokens with their weights; `vectors`: rows that stand in for the tokens from a position on."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    vectors: tuple[tuple[int, torch.Tensor], ...] = ()


@dataclass(slots=True)
class _Filling:
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vectors: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    comma: int = -1

    def cut(self, at: int) -> tuple[Chunk, _Filling]:
        """(what lies before `at` as a chunk, the rest)."""
        rest = _Filling(self.tokens[at:], self.weights[at:], [(n - at, rows) for n, rows in self.vectors if n >= at])
        own = tuple((n, rows) for n, rows in self.vectors if n < at)
        return Chunk(tuple(self.tokens[:at]), tuple(self.weights[:at]), own), rest


def chunks(
    sections: Sequence[Section], tokenizer: Any, embeddings: Mapping[str, torch.Tensor] | None = None
) -> tuple[Chunk, ...]:
    """The chunks of a prompt, one at least. Every section after the first begins a chunk of its own (BREAK).

    `embeddings`: n×width rows by the name that stands for them in the text. Raises ImageError beyond `MOST` chunks.
    """
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    done: list[Chunk] = []
    for section in sections:
        filling = _Filling()
        for token, weight, rows in _items(section, tokenizer, embeddings or {}):
            needed = 1 if rows is None else len(rows)
            if token == comma and rows is None:
                filling.comma = len(filling.tokens)
            elif len(filling.tokens) == LENGTH and 0 <= filling.comma >= LENGTH - BACKTRACK:
                chunk, filling = filling.cut(filling.comma + 1)
                done.append(chunk)
            if len(filling.tokens) + needed > LENGTH:
                chunk, filling = filling.cut(len(filling.tokens))
                done.append(chunk)
            if rows is not None:
                filling.vectors.append((len(filling.tokens), rows))
            filling.tokens += [token] * needed
            filling.weights += [weight] * needed
        done.append(filling.cut(len(filling.tokens))[0])
        if len(done) > MOST:
            raise ImageError(
                f"A prompt of more than {MOST * LENGTH} tokens can't be used.",
                hint="Shorten it, or check the metadata.",
            )
    # A BREAK at the very end begins nothing.
    return tuple(done if len(done) == 1 or done[-1].tokens else done[:-1])


def _items(
    section: Section, tokenizer: Any, embeddings: Mapping[str, torch.Tensor]
) -> Iterator[tuple[int, float, torch.Tensor | None]]:
    """(token, weight, None) for each token of the text, (0, weight, rows) for each embedding in it."""
    for fragment in section:
        for text, name in split_names(fragment.text, embeddings):
            if name is not None:
                yield 0, fragment.weight, embeddings[name]
            else:
                for token in tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids:
                    yield token, fragment.weight, None


def split_names(text: str, names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The text cut at the names in it, whole words in any case: (text, None) and (as written, name) in turn."""
    known = {name.lower(): name for name in names}
    position = 0
    if known:
        longest_first = sorted(known, key=lambda name: (-len(name), name))
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if (name := known.get(match[0].lower())) is None:
                continue  # letters that fold together in one direction only
            if match.start() > position:
                yield text[position : match.start()], None
            yield match[0], name
            position = match.end()
    if text[position:]:
        yield text[position:], None
