"""From text to what the UNet listens to, with AUTOMATIC1111's prompt syntax (diffusion/syntax.py).

A plain prompt of up to 75 tokens gives what diffusers' own pipelines give, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tilehires.diffusion import syntax
from tilehires.diffusion.chunks import LENGTH, Chunk, chunks
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.syntax import Count, Fragment

Emphasis = Literal["Original", "No norm", "Ignore", "None"]
Embeddings = Mapping[str, tuple[torch.Tensor, ...]]
"""Textual inversion by name: rows n×width, one tensor per text encoder."""


@dataclass(frozen=True)
class Conditioning:
    """What one step listens to.

    `embeds`: n×tokens×width, unconditional first when `guided`, then one entry per prompt that AND joined; `weights`: of
    those; `pooled`: n×width for SDXL, else None.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor | None
    guided: bool
    weights: tuple[float, ...] = (1.0,)

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.embeds.shape[0] // (len(self.weights) + self.guided)


@dataclass(frozen=True)
class Course:
    """What a pass listens to, step by step; all steps' conditionings have one shape."""

    distinct: tuple[Conditioning, ...]
    steps: tuple[int, ...]
    """For each step that runs, which of `distinct`."""

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.distinct[0].batch

    @property
    def guided(self) -> bool:
        return self.distinct[0].guided

    def at(self, step: int) -> Conditioning:
        """The conditioning of a step, counted from 0; beyond the last step, the last one's."""
        return self.distinct[self.steps[min(step, len(self.steps) - 1)]]


@dataclass(frozen=True)
class Encoding:
    """How text becomes embeddings.

    `clip_skip` N takes the N-th layer from the end through the final norm; SDXL takes the last but one, always, as A1111
    does. `emphasis`: "Original" restores the mean of each chunk after weighing it, "No norm" doesn't, "Ignore" drops the
    weights, "None" takes brackets as text. `embeddings`: textual inversion.
    """

    clip_skip: int = 1
    emphasis: Emphasis = "Original"
    embeddings: Embeddings = field(default_factory=dict)


def encode(
    model: Diffusion,
    prompt: str,
    negative: str = "",
    *,
    guided: bool,
    clip_skip: int = 1,
    device: torch.device | str = "cpu",
) -> Conditioning:
    """Encode one prompt for a single step, and what to avoid when `guided`. See `course`."""
    made = course(model, prompt, negative, guided=guided, encoding=Encoding(clip_skip), device=device)
    return made.at(0)


@torch.no_grad()
def course(
    model: Diffusion,
    prompt: str,
    negative: str = "",
    *,
    guided: bool,
    count: Count | None = None,
    encoding: Encoding | None = None,
    device: torch.device | str = "cpu",
) -> Course:
    """Encode a prompt, and what to avoid when `guided`, for all steps of a pass.

    Without guidance the negative prompt has no part; AND needs guidance and turns it on. All texts are filled up with
    empty chunks to the longest one's number of chunks. Tags (`<lora:…>`) are left out. The text encoders must be on
    `device`. Raises ImageError when a prompt is absurdly long.
    """
    count, encoding = count or Count(1), encoding or Encoding()
    halves = syntax.parts(syntax.without_tags(prompt)[0])
    guided = guided or len(halves) > 1
    texts = [syntax.without_tags(negative)[0]] * guided + [half.text for half in halves]
    rows = list(zip(*(syntax.at_each_step(text, count) for text in texts), strict=True))
    distinct = list(dict.fromkeys(rows))
    encoded = _encoded(model, list(dict.fromkeys(text for row in distinct for text in row)), encoding, device)
    made = []
    for row in distinct:
        entries = [encoded[text] for text in row]
        if guided and not row[0] and model.zero_empty_negative:
            entries[0] = (torch.zeros_like(entries[0][0]), *(torch.zeros_like(p) for p in entries[0][1:]))
        pooled = torch.cat([entry[1] for entry in entries]) if len(entries[0]) > 1 else None
        weights = tuple(half.weight for half in halves)
        made.append(Conditioning(torch.cat([entry[0] for entry in entries]), pooled, guided, weights))
    return Course(tuple(made), tuple(distinct.index(row) for row in rows))


def _encoded(
    model: Diffusion, texts: Sequence[str], encoding: Encoding, device: torch.device | str
) -> dict[str, tuple[torch.Tensor, ...]]:
    """(embeds,) of each text, or (embeds, pooled), all of one length."""
    cut: dict[str, list[tuple[Chunk, ...]]] = {}
    for text in texts:
        sections = syntax.emphasis(text) if encoding.emphasis != "None" else ((Fragment(text),),)
        cut[text] = [
            chunks(sections, tokenizer, {name: rows[i] for name, rows in encoding.embeddings.items()})
            for i, tokenizer in enumerate(model.tokenizers)
        ]
    most = max(len(found) for each in cut.values() for found in each)
    filled = {
        text: [(*found, *(Chunk() for _ in range(most - len(found)))) for found in each] for text, each in cut.items()
    }
    return {text: _one(model, each, encoding, device) for text, each in filled.items()}


def _one(
    model: Diffusion, cut: Sequence[Sequence[Chunk]], encoding: Encoding, device: torch.device | str
) -> tuple[torch.Tensor, ...]:
    """The embeds of all encoders side by side; and for SDXL the last encoder's pooled answer to the first chunk."""
    parts, pooled = [], None
    for encoder, tokenizer, own in zip(model.text_encoders, model.tokenizers, cut, strict=True):
        ids = _ids(tokenizer, own).to(device)
        with _standing_in(encoder, own):
            answer = encoder(ids, output_hidden_states=model.pooled or encoding.clip_skip > 1)
        if model.pooled:
            hidden, pooled = answer.hidden_states[-2], answer[0][:1]
        elif encoding.clip_skip == 1:
            hidden = answer[0]
        else:
            earlier = answer.hidden_states[-encoding.clip_skip]
            hidden = getattr(encoder, "text_model", encoder).final_layer_norm(earlier)
        parts.append(_weighted(hidden, own, encoding.emphasis).reshape(1, -1, hidden.shape[-1]))
    embeds = torch.cat(parts, dim=-1)
    return (embeds,) if pooled is None else (embeds, pooled)


def _ids(tokenizer: Any, cut: Sequence[Chunk]) -> torch.Tensor:
    """chunks×77 token ids: start, up to 75 tokens, end, padding."""
    rows = []
    for chunk in cut:
        padding = [tokenizer.pad_token_id] * (LENGTH - len(chunk.tokens))
        rows.append([tokenizer.bos_token_id, *chunk.tokens, tokenizer.eos_token_id, *padding])
    return torch.tensor(rows)


def _weighted(hidden: torch.Tensor, cut: Sequence[Chunk], emphasis: Emphasis) -> torch.Tensor:
    """chunks×77×width weighed token by token; "Original" gives each chunk its mean back. Untouched where nothing weighs."""
    if emphasis in ("Ignore", "None") or all(weight == 1 for chunk in cut for weight in chunk.weights):
        return hidden
    weights = torch.ones(hidden.shape[:2])
    for row, chunk in zip(weights, cut, strict=True):
        row[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
    before = hidden.float()
    after = before * weights.to(hidden.device)[..., None]
    if emphasis == "Original":
        after = after * (before.mean((1, 2), keepdim=True) / after.mean((1, 2), keepdim=True))
    # A chunk without weights stays as it is, to the last bit.
    plain = (weights == 1).all(1).to(hidden.device)[:, None, None]
    return torch.where(plain, hidden, after.to(hidden.dtype))


@contextlib.contextmanager
def _standing_in(encoder: Any, cut: Sequence[Chunk]) -> Iterator[None]:
    """The chunks' own vectors take the places of their tokens' embeddings inside."""
    if not any(chunk.vectors for chunk in cut):
        yield
        return

    def replace(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for row, chunk in zip(embedded, cut, strict=True):
            for position, rows in chunk.vectors:
                row[1 + position : 1 + position + len(rows)] = rows.to(row)
        return embedded

    hook = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
