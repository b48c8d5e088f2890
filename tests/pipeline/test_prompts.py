"""Prompts as diffusers' own pipelines encode them; longer ones in chunks of 75 tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tilehires.diffusion import prompts
from tilehires.diffusion.syntax import Count
from tilehires.errors import ImageError

PROMPTS = ["a photo of a cat", "", "Ünïcode — 猫, plain: 12345!", "cat, " * 37]


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


def raw(pipe: Any, text: str, part: str = "") -> torch.Tensor:
    """A text of up to 75 tokens through the pipeline's encoder, as the UNet gets it: 77×width, straight by transformers."""
    tokenizer, encoder = getattr(pipe, f"tokenizer{part}"), getattr(pipe, f"text_encoder{part}")
    ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        if hasattr(pipe, "text_encoder_2"):
            return encoder(ids, output_hidden_states=True).hidden_states[-2][0]
        return encoder(ids)[0][0]


def by_hand(pipe: Any, text: str, weights: dict[int, float], *, norm: bool = True, part: str = "") -> torch.Tensor:
    """The plain text's embeddings, the tokens at those positions weighted, the mean restored."""
    plain = raw(pipe, text, part)
    weighted = plain.clone()
    for position, weight in weights.items():
        weighted[position] *= weight
    return weighted * (plain.mean() / weighted.mean()) if norm else weighted


# Position 0 is the start token; "a red ball, dog" is five tokens.
WEIGHTED = [
    ("a (red:1.3) ball, dog", {2: 1.3}),
    ("a ((red)) ball, dog", {2: 1.1 * 1.1}),
    ("a [red] ball, (dog)", {2: 1 / 1.1, 5: 1.1}),
    ("a red (ball, dog", {3: 1.1, 4: 1.1, 5: 1.1}),
    ("a (red [ball]:0.5), dog", {2: 0.5, 3: 0.5 / 1.1}),
    ("a (red:0) ball, dog", {2: 0.0}),
]


@pytest.mark.parametrize(("text", "weights"), WEIGHTED)
def test_emphasis_weighs_the_encoders_output_and_restores_its_mean(text: str, weights: dict[int, float]) -> None:
    pipe = tiny.sd15()
    got = prompts.encode(tiny.parts(pipe), text, guided=False).embeds[0]
    want = by_hand(pipe, "a red ball, dog", weights)
    assert (got - want).abs().max() < 1e-5
    assert (got - raw(pipe, "a red ball, dog")).abs().max() > 1e-2, "the weights did nothing"


def test_emphasis_weighs_both_encoders_of_sdxl_and_leaves_the_pooled_one_alone() -> None:
    pipe = tiny.sdxl()
    model = tiny.parts(pipe)
    got = prompts.encode(model, "a (red:1.3) ball, dog", guided=False)
    want = [by_hand(pipe, "a red ball, dog", {2: 1.3}, part=part) for part in ("", "_2")]
    assert (got.embeds[0] - torch.cat(want, -1)).abs().max() < 1e-5, "each encoder keeps a mean of its own"
    plain = prompts.encode(model, "a red ball, dog", guided=False)
    assert got.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(got.pooled, plain.pooled)


def encoded(model: Any, text: str, **options: Any) -> torch.Tensor:
    course = prompts.course(model, text, guided=False, encoding=prompts.Encoding(**options))
    return course.at(0).embeds[0]


def test_emphasis_has_three_other_modes() -> None:
    pipe = tiny.sd15()
    model, text = tiny.parts(pipe), "a (red:1.3) ball, dog"
    want = by_hand(pipe, "a red ball, dog", {2: 1.3}, norm=False)
    assert (encoded(model, text, emphasis="No norm") - want).abs().max() < 1e-6
    assert torch.equal(encoded(model, text, emphasis="Ignore"), raw(pipe, "a red ball, dog"))
    assert torch.equal(encoded(model, text, emphasis="None"), raw(pipe, text))


def test_emphasis_weighs_what_clip_skip_took() -> None:
    pipe = tiny.sd15()
    plain = encoded(tiny.parts(pipe), "a red ball", clip_skip=2)
    got = encoded(tiny.parts(pipe), "a (red:1.3) ball", clip_skip=2, emphasis="No norm")
    want = plain.clone()
    want[2] *= 1.3
    assert (got - want).abs().max() < 1e-6


def test_break_begins_a_chunk_of_its_own_with_a_mean_of_its_own() -> None:
    pipe = tiny.sd15()
    got = prompts.encode(tiny.parts(pipe), "a (red:1.5) ball BREAK dog", guided=False).embeds[0]
    assert got.shape == (154, 32)
    assert (got[:77] - by_hand(pipe, "a red ball", {2: 1.5})).abs().max() < 1e-5
    assert (got[77:] - raw(pipe, "dog")).abs().max() < 1e-6
    one = prompts.encode(tiny.parts(pipe), "a red ball BREAK", guided=False).embeds[0]
    assert torch.equal(one, raw(pipe, "a red ball")), "a BREAK at the end begins nothing"


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [(70, 10, 4), (60, 20, 14), (55, 24, 19), (54, 25, 0), (74, 5, 0), (75, 3, 0)],
    ids=lambda v: str(v),
)
def test_a_full_chunk_ends_at_its_last_comma_if_that_is_near(before: int, after: int, moved: int) -> None:
    """`before` words, a comma, `after` words: the comma stands at position `before`, and the chunk holds 75."""
    pipe = tiny.sd15()
    got = prompts.encode(tiny.parts(pipe), f"{words(before)}, {words(after)}", guided=False).embeds[0]
    tokens = ["cat"] * before + [","] + ["cat"] * after
    first = min(75, before + 1) if moved or before >= 74 else 75
    want = [" ".join(tokens[:first]), " ".join(tokens[first:])]
    if before == 75:  # the comma itself no longer fits, and begins the next chunk
        want = [" ".join(tokens[:75]), " ".join(tokens[75:])]
    assert got.shape == (154, 32)
    for i, text in enumerate(want):
        assert (got[77 * i : 77 * (i + 1)] - raw(pipe, text)).abs().max() < 1e-5, f"chunk {i} is not {text[-40:]!r}"


def test_schedules_and_alternation_change_what_a_step_listens_to() -> None:
    pipe = tiny.sd15()
    model = tiny.parts(pipe)
    made = prompts.course(model, "a [cat:dog:0.5] [red|blue]", "[ugly::1]", guided=True, count=Count(4))
    want = [("ugly", "a cat red"), ("", "a cat blue"), ("", "a dog red"), ("", "a dog blue")]
    assert len(made.distinct) == 4
    for step, (negative, text) in enumerate(want):
        got = made.at(step)
        assert (got.embeds[0] - raw(pipe, negative)).abs().max() < 1e-6, f"step {step}"
        assert (got.embeds[1] - raw(pipe, text)).abs().max() < 1e-6, f"step {step}"
    assert made.at(9) is made.at(3), "some schedulers call the model once more than there are steps"
    plain = prompts.course(model, "a cat", "", guided=True, count=Count(50))
    assert len(plain.distinct) == 1, "what doesn't change is encoded once"


def test_all_steps_have_as_many_chunks_as_the_longest() -> None:
    model = tiny.parts(tiny.sd15())
    made = prompts.course(model, f"[dog:{words(80)}:1]", "ugly", guided=True, count=Count(2))
    assert {each.embeds.shape for each in made.distinct} == {(2, 154, 32)}
    empty = prompts.encode(model, "", guided=False).embeds[0]
    assert (made.at(0).embeds[:, 77:] - empty).abs().max() < 1e-6


def test_and_gives_each_prompt_an_entry_and_a_weight() -> None:
    pipe = tiny.sdxl()
    made = prompts.encode(tiny.parts(pipe), "a cat AND a dog :0.5", "ugly AND bad", guided=True)
    assert made.weights == (1.0, 0.5)
    assert made.batch == 1
    for i, text in enumerate(["ugly AND bad", "a cat", "a dog"]):
        want = torch.cat([raw(pipe, text), raw(pipe, text, "_2")], -1)
        assert (made.embeds[i] - want).abs().max() < 1e-6, "AND is a word in a negative prompt"
    assert prompts.encode(tiny.parts(pipe), "a AND b", guided=False).guided, "AND needs something to go away from"


def test_an_absurdly_long_prompt_is_an_error_with_a_hint() -> None:
    with pytest.raises(ImageError) as caught:
        prompts.encode(tiny.parts(tiny.sd15()), words(5000), guided=True)
    assert caught.value.hint
