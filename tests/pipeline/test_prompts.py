"""Prompts as diffusers' own pipelines encode them; longer ones in chunks of 75 tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tilehires.diffusion import prompts

PROMPTS = ["a photo of a cat", "", "Ünïcode — 猫, (plain) 12345!", "cat, " * 37]


def words(count: int) -> str:
    """A prompt of exactly that many tokens."""
    return " ".join(["cat"] * count)


@pytest.mark.parametrize("build", [tiny.sd15, tiny.sd2], ids=["sd15", "sd2"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_plain_prompt_is_encoded_like_stock(build: Any, prompt: str) -> None:
    pipe = build()
    with torch.no_grad():
        want, want_negative = pipe.encode_prompt(prompt, "cpu", 1, True, "ugly")
    got = prompts.encode(tiny.parts(pipe), prompt, "ugly", guided=True)
    assert torch.equal(got.embeds, torch.cat([want_negative, want])), "unconditional first, then the prompt"
    assert got.pooled is None
    assert got.batch == 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_plain_prompt_is_encoded_like_stock_sdxl(prompt: str) -> None:
    pipe: Any = tiny.sdxl()
    with torch.no_grad():
        want = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=True, negative_prompt="ugly")
    got = prompts.encode(tiny.parts(pipe), prompt, "ugly", guided=True)
    assert torch.equal(got.embeds, torch.cat([want[1], want[0]]))
    assert got.pooled is not None
    assert torch.equal(got.pooled, torch.cat([want[3], want[2]]))


def test_an_empty_negative_prompt_is_zeros_where_the_model_wants_it() -> None:
    pipe: Any = tiny.sdxl()
    with torch.no_grad():
        want = pipe.encode_prompt("a cat", device="cpu", do_classifier_free_guidance=True, negative_prompt=None)
    got = prompts.encode(tiny.parts(pipe), "a cat", "", guided=True)
    assert torch.equal(got.embeds, torch.cat([want[1], want[0]]))
    assert got.pooled is not None
    assert torch.equal(got.pooled, torch.cat([want[3], want[2]]))


def test_without_guidance_the_negative_prompt_has_no_part() -> None:
    model = tiny.parts(tiny.sd15())
    got = prompts.encode(model, "a cat", "ugly", guided=False)
    assert got.embeds.shape == (1, 77, 32)
    assert got.batch == 1
    assert torch.equal(got.embeds, prompts.encode(model, "a cat", guided=True).embeds[1:])


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(skip: int) -> None:
    pipe = tiny.sd15()
    model = tiny.parts(pipe)
    ids = pipe.tokenizer("a cat", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-skip]
        want = pipe.text_encoder.final_layer_norm(hidden)
    got = prompts.encode(model, "a cat", guided=False, clip_skip=skip).embeds
    assert torch.equal(got, want)


def test_sdxl_ignores_clip_skip() -> None:
    model = tiny.parts(tiny.sdxl())
    plain, skipped = (prompts.encode(model, "a cat", guided=False, clip_skip=skip) for skip in (1, 2))
    assert torch.equal(plain.embeds, skipped.embeds), (
        '"Clip skip: 2" in an image\'s metadata must not change an SDXL picture'
    )


@pytest.mark.parametrize(("tokens", "chunks"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_long_prompts_go_in_chunks_of_75(tokens: int, chunks: int) -> None:
    model = tiny.parts(tiny.sd15())
    got = prompts.encode(model, words(tokens), "ugly", guided=True)
    assert got.embeds.shape == (2, 77 * chunks, 32), "the shorter prompt is filled up with empty chunks"
    first = prompts.encode(model, words(min(tokens, 75)), guided=False).embeds
    assert torch.allclose(got.embeds[1:, :77], first, atol=1e-6), "a chunk is encoded on its own"
    if tokens == 76:
        assert torch.allclose(got.embeds[1:, 77:], prompts.encode(model, "cat", guided=False).embeds, atol=1e-6)
        assert torch.allclose(got.embeds[:1, 77:], prompts.encode(model, "", guided=False).embeds, atol=1e-6)


def test_sdxls_pooled_embedding_is_the_first_chunks() -> None:
    model = tiny.parts(tiny.sdxl())
    long = prompts.encode(model, words(75) + " dog", guided=False)
    assert long.pooled is not None
    first = prompts.encode(model, words(75), guided=False).pooled
    assert first is not None
    assert torch.allclose(long.pooled, first, atol=1e-6)
