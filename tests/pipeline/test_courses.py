"""The bay remembers encoded prompts: the same answer without the text encoders, and never a stale one."""

from __future__ import annotations

import types

import pytest
import torch

from tilehires.diffusion import bay as bays
from tilehires.diffusion import checkpoints, prompts
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.prompts import Encoding
from tilehires.diffusion.syntax import Count


@pytest.fixture(scope="module")
def loaded() -> tuple[Bay, Diffusion]:
    bay = Bay()
    return bay, bay.diffusion(checkpoints.inspect("builtin"))


@pytest.fixture
def calls(loaded: tuple[Bay, Diffusion]):
    """One entry for each call of the text encoder."""
    bay, model = loaded
    bay._courses.clear()
    seen: list[int] = []
    handle = model.text_encoders[0].register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def ask(loaded: tuple[Bay, Diffusion], prompt: str = "red", negative: str = "", **options) -> prompts.Course:
    bay, model = loaded
    settings = {"guided": True, "count": Count(4), "encoding": Encoding()} | options
    return bay.course(model, prompt, negative, **settings)


def test_a_prompt_is_encoded_once_and_is_the_encoders_own_answer(loaded: tuple[Bay, Diffusion], calls: list) -> None:
    first = ask(loaded, "a (red:1.2) fox")
    asked = len(calls)
    assert asked
    assert ask(loaded, "a (red:1.2) fox") is first and len(calls) == asked
    fresh = prompts.course(loaded[1], "a (red:1.2) fox", "", guided=True, count=Count(4), encoding=Encoding())
    assert torch.equal(fresh.at(0).embeds, first.at(0).embeds)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("blue", {}),
        ("red", {"negative": "blur"}),
        ("red", {"guided": False}),
        ("red", {"count": Count(5)}),
        ("red", {"encoding": Encoding(clip_skip=2)}),
        ("red", {"encoding": Encoding(emphasis="None")}),
    ],
)
def test_whatever_shapes_the_answer_asks_anew(
    loaded: tuple[Bay, Diffusion], calls: list, prompt: str, options: dict
) -> None:
    ask(loaded)
    before = len(calls)
    ask(loaded, prompt, **options)
    assert len(calls) > before


def test_only_the_latest_are_kept(loaded: tuple[Bay, Diffusion], calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bays, "COURSES", 2)
    for prompt in ("red", "green", "red", "blue"):
        ask(loaded, prompt)
    before = len(calls)
    ask(loaded, "red")
    assert len(calls) == before, "asked for later than green"
    ask(loaded, "green")
    assert len(calls) > before


def test_an_adapted_encoder_and_another_model_are_never_answered_from_memory(
    loaded: tuple[Bay, Diffusion], calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    bay, model = loaded
    ask(loaded)
    monkeypatch.setattr(bay, "_adapters", types.SimpleNamespace(on_text=True))
    before = len(calls)
    ask(loaded)
    assert len(calls) > before
    monkeypatch.undo()
    bay.free()
    assert not bay._courses, "freed with the model they belong to"
    before = len(calls)
    bay.course(model, "red", "", guided=True, count=Count(4), encoding=Encoding())
    assert len(calls) > before and not bay._courses
