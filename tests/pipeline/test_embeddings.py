"""Textual inversion: files of every kind, the word that stands for them, and the rows that take its place."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tilehires.diffusion import embeddings, prompts
from tilehires.diffusion.embeddings import Embedding, MisfitError

ROWS = torch.randn((2, 32), generator=torch.Generator().manual_seed(1))
SECOND = torch.randn((2, 48), generator=torch.Generator().manual_seed(2))


def written(folder: Path, kind: str, rows: torch.Tensor = ROWS) -> Embedding:
    file = folder / f"bad-hands.{'pt' if kind.endswith('pt') else 'safetensors'}"
    match kind:
        case "a1111 pt":
            body = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(rows)}, "name": "x"}
            torch.save({**body, "step": 500, "sd_checkpoint": None}, file)
        case "diffusers pt":
            torch.save({"<bad>": rows}, file)
        case "a1111":
            save_file({"emb_params": rows}, file)
        case "one row":
            save_file({"<bad>": rows[0].clone()}, file)
        case "sdxl":
            save_file({"clip_g": SECOND, "clip_l": rows}, file)
    return Embedding("bad-hands", file)


def encoded(model: Any, text: str, one: Embedding) -> prompts.Conditioning:
    encoding = prompts.Encoding(embeddings=embeddings.load([one], model))
    return prompts.course(model, text, guided=False, encoding=encoding).at(0)


def by_hand(encoder: Any, tokenizer: Any, template: str, rows: torch.Tensor, position: int) -> Any:
    """The template's tokens, those from `position` on replaced by the rows, straight through the encoder."""
    ids = tokenizer(template, padding="max_length", max_length=77, return_tensors="pt").input_ids
    table = encoder.get_input_embeddings()
    embedded = table(ids).clone()
    embedded[0, position : position + len(rows)] = rows
    hook = table.register_forward_hook(lambda *_: embedded)
    try:
        with torch.no_grad():
            return encoder(ids, output_hidden_states=True)
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", ["a1111 pt", "diffusers pt", "a1111", "one row"])
def test_the_rows_take_the_place_of_the_word(tmp_path: Path, kind: str) -> None:
    pipe: Any = tiny.sd15()
    rows = ROWS[:1] if kind == "one row" else ROWS
    one = written(tmp_path, kind)
    got = encoded(tiny.parts(pipe), "a Bad-Hands, dog", one).embeds
    template = "a " + "cat " * len(rows) + ", dog"
    want = by_hand(pipe.text_encoder, pipe.tokenizer, template, rows, 2)[0]
    assert (got - want).abs().max() < 1e-6


def test_both_encoders_of_sdxl_get_their_own_rows_and_the_pooled_one_sees_them(tmp_path: Path) -> None:
    pipe: Any = tiny.sdxl()
    got = encoded(tiny.parts(pipe), "a bad-hands, dog", written(tmp_path, "sdxl"))
    first = by_hand(pipe.text_encoder, pipe.tokenizer, "a cat cat, dog", ROWS, 2)
    second = by_hand(pipe.text_encoder_2, pipe.tokenizer_2, "a cat cat, dog", SECOND, 2)
    want = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    assert (got.embeds - want).abs().max() < 1e-6
    assert got.pooled is not None
    assert (got.pooled - second[0]).abs().max() < 1e-6


def test_the_rows_are_weighted_like_words_and_never_cut_apart(tmp_path: Path) -> None:
    model, one = tiny.parts(tiny.sd15()), written(tmp_path, "a1111")
    plain = encoded(model, "bad-hands", one).embeds
    weighted = prompts.Encoding(emphasis="No norm", embeddings=embeddings.load([one], model))
    got = prompts.course(model, "(bad-hands:1.5)", guided=False, encoding=weighted).at(0).embeds
    want = plain.clone()
    want[0, 1:3] *= 1.5
    assert (got - want).abs().max() < 1e-6
    split = encoded(model, "cat " * 74 + "bad-hands", one).embeds
    assert split.shape[1] == 154
    assert (split[:, 77:] - plain).abs().max() < 1e-5, "two rows don't fit behind 74 words: both begin the next chunk"


def test_a_file_counts_where_its_name_stands_as_a_word(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("easy.pt", "deep/easy-neg.safetensors", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    found = [one.name for one in embeddings.found_in("uneasy, (Easy-Neg:1.2), easy readme", tmp_path)]
    assert found == ["easy-neg", "easy"]
    assert embeddings.found_in("easy", tmp_path / "nowhere") == ()


@pytest.mark.parametrize(("kind", "build"), [("sdxl", tiny.sd15), ("a1111", tiny.sdxl), ("a1111 pt", tiny.sdxl)])
def test_a_wrong_width_is_an_error_that_names_both(tmp_path: Path, kind: str, build: Any) -> None:
    with pytest.raises(MisfitError, match="32") as caught:
        embeddings.load([written(tmp_path, kind)], tiny.parts(build()))
    assert "48" in caught.value.message
    assert "family" in caught.value.hint


def test_too_many_rows_are_an_error(tmp_path: Path) -> None:
    one = written(tmp_path, "a1111", torch.zeros(76, 32))
    with pytest.raises(MisfitError, match="76"):
        embeddings.load([one], tiny.parts(tiny.sd15()))


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    file, proof = tmp_path / "evil.pt", tmp_path / "it-ran"
    torch.save({"string_to_param": {"*": ROWS}, "trap": Trap(proof)}, file)
    with pytest.raises(MisfitError, match="run code"):
        embeddings.read(Embedding("evil", file))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(proof)))
    with pytest.raises(MisfitError) as caught:
        embeddings.read(Embedding("plain", tmp_path / "plain.pt"))
    assert caught.value.hint
    assert not proof.exists(), "loading the file ran its code"


@pytest.mark.parametrize("body", [b"", b"\0" * 64, b"PK\x03\x04nonsense"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_an_error_with_a_hint(tmp_path: Path, suffix: str, body: bytes) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(body)
    with pytest.raises(MisfitError) as caught:
        embeddings.read(Embedding("broken", file))
    assert caught.value.hint


def test_what_is_no_embedding_is_said(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3, 3), "b": torch.zeros(3, 3)}, file)
    with pytest.raises(MisfitError, match="no textual inversion"):
        embeddings.read(Embedding("other", file))
