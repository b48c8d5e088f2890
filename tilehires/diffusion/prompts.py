"""From text to what the UNet listens to. For plain prompts of up to 75 tokens this equals diffusers' own pipelines.

Longer prompts go through the encoders in chunks of 75, which are joined along the token axis, as in AUTOMATIC1111.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tilehires.diffusion.components import Diffusion

CHUNK = 75


@dataclass(frozen=True)
class Conditioning:
    """`embeds`: n×tokens×width, unconditional first when `guided`; `pooled`: n×width for SDXL, else None."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None
    guided: bool

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.embeds.shape[0] // (2 if self.guided else 1)


@torch.no_grad()
def encode(
    model: Diffusion,
    prompt: str,
    negative: str = "",
    *,
    guided: bool,
    clip_skip: int = 1,
    device: torch.device | str = "cpu",
) -> Conditioning:
    """Encode one prompt, and what to avoid when `guided` (without guidance the negative prompt has no part).

    `clip_skip` N takes the N-th layer from the end through the final norm; SDXL takes the last but one, always, as
    A1111 does. The text encoders must be on `device`.
    """
    texts = [negative, prompt] if guided else [prompt]
    chunks = max(_count(tokenizer, text) for tokenizer in model.tokenizers for text in texts)
    if len(model.text_encoders) == 1:
        embeds = [_single(model, text, chunks, clip_skip, device) for text in texts]
        return Conditioning(torch.cat(embeds), None, guided)
    pairs = [_double(model, text, chunks, device) for text in texts]
    if guided and not negative and model.zero_empty_negative:
        pairs[0] = (torch.zeros_like(pairs[0][0]), torch.zeros_like(pairs[0][1]))
    return Conditioning(torch.cat([e for e, _ in pairs]), torch.cat([p for _, p in pairs]), guided)


def _single(model: Diffusion, text: str, chunks: int, clip_skip: int, device: torch.device | str) -> torch.Tensor:
    encoder = model.text_encoders[0]
    ids = _ids(model.tokenizers[0], text, chunks).to(device)
    if clip_skip == 1:
        embeds = encoder(ids)[0]
    else:
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-clip_skip]
        embeds = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
    return embeds.reshape(1, -1, embeds.shape[-1])


def _double(model: Diffusion, text: str, chunks: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeds of both encoders side by side, the second one's pooled answer to the first chunk)."""
    parts, pooled = [], None
    for encoder, tokenizer in zip(model.text_encoders, model.tokenizers, strict=True):
        answer = encoder(_ids(tokenizer, text, chunks).to(device), output_hidden_states=True)
        hidden = answer.hidden_states[-2]
        parts.append(hidden.reshape(1, -1, hidden.shape[-1]))
        pooled = answer[0][:1]
    if pooled is None:
        raise ValueError("a model without text encoders")
    return torch.cat(parts, dim=-1), pooled


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def _count(tokenizer: Any, text: str) -> int:
    return max(1, -(-len(_tokens(tokenizer, text)) // CHUNK))


def _ids(tokenizer: Any, text: str, chunks: int) -> torch.Tensor:
    """chunks×77 token ids: start, up to 75 tokens, end, padding. Chunks beyond the text's are empty prompts."""
    tokens = _tokens(tokenizer, text)
    rows = []
    for i in range(chunks):
        part = tokens[i * CHUNK : (i + 1) * CHUNK]
        padding = [tokenizer.pad_token_id] * (CHUNK - len(part))
        rows.append([tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding])
    return torch.tensor(rows)
