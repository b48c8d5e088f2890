"""LoRAs of every naming, on and off again, against the same change added to the weights by hand."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import loras, tiny
from tests.loras import Halves, Naming
from tilehires.diffusion import lora, prompts
from tilehires.diffusion.adapters import Adapters
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.header import read_header
from tilehires.diffusion.lora import Lora
from tilehires.diffusion.syntax import Tag
from tilehires.errors import ConfigError, MissingError

BUILDERS: dict[str, Callable[[], Any]] = {"sd1": tiny.sd15, "sd2": tiny.sd2, "sdxl": tiny.sdxl}
NAMINGS: list[Naming] = ["diffusers", "peft", "processor", "kohya", "ldm"]


@pytest.fixture(scope="module", params=BUILDERS)
def pipe(request: pytest.FixtureRequest) -> Any:
    return BUILDERS[request.param]()


def doubled(pipe: Any) -> Diffusion:
    """In float64, where rounding hides nothing."""
    model = copy.deepcopy(tiny.parts(pipe))
    for module in model.modules():
        module.double()
    return model


def answer(model: Diffusion) -> torch.Tensor:
    """What text encoders and UNet make of a prompt and some latents."""
    condition = prompts.encode(model, "a cat", guided=False)
    dtype = model.unet.dtype
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1)).to(dtype)
    added = None
    if condition.pooled is not None:
        added = {"text_embeds": condition.pooled, "time_ids": torch.ones((1, 6), dtype=dtype)}
    with torch.no_grad():
        made = model.unet(
            x, torch.tensor(500), encoder_hidden_states=condition.embeds, added_cond_kwargs=added, return_dict=False
        )
    return torch.cat([made[0].flatten(), condition.embeds.flatten()])


def scaled(changes: Halves, alpha: float | None) -> Halves:
    """With another alpha; None: each change's own rank."""
    return {
        place: (down, up, float(down.shape[0]) if alpha is None else alpha) for place, (down, up, _) in changes.items()
    }


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_lora_is_its_delta_added_to_the_weights(pipe: Any, tmp_path: Path, naming: Naming) -> None:
    changes = scaled(
        loras.halves(pipe, only_attention=naming == "processor"), 0.7 if naming in ("kohya", "ldm") else None
    )
    file = loras.write(pipe, tmp_path / "style.safetensors", naming, changes)
    model = doubled(pipe)
    plain = answer(model)
    Adapters(model).fit([Lora("style", file, text=0.5, unet=0.8)])
    got, want = answer(model), answer(loras.by_hand(doubled(pipe), changes, unet=0.8, text=0.5))
    assert (got - want).abs().max() < 1e-6
    assert (want - plain).abs().max() > 1e-2, "the LoRA does nothing: this test would not see a fault"


def test_in_single_precision_it_is_so_to_a_millionth_or_so(pipe: Any, tmp_path: Path) -> None:
    changes = loras.halves(pipe, only_attention=True)
    file = loras.write(pipe, tmp_path / "style.safetensors", "kohya", changes)
    model = copy.deepcopy(tiny.parts(pipe))
    want = answer(loras.by_hand(model, changes, unet=0.8, text=0.8))
    Adapters(model).fit([Lora("style", file, 0.8, 0.8)])
    assert (answer(model) - want).abs().max() / want.abs().max() < 5e-6


def test_several_loras_add_up_and_weights_change_without_reloading(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loras.halves(pipe)
    second = {place: (down * 0.5, up, 4.0) for place, (down, up, _) in loras.halves(pipe, text=False).items()}
    one = loras.write(pipe, tmp_path / "one.safetensors", "kohya", first)
    two = loras.write(pipe, tmp_path / "two.safetensors", "ldm", second)
    model = doubled(pipe)
    adapters = Adapters(model)
    adapters.fit([Lora("one", one, 1.0, 1.0), Lora("two", two, 1.0, -0.4)])
    monkeypatch.setattr(lora, "read", _refuse)
    adapters.fit([Lora("one", one, 0.3, 0.6), Lora("two", two, 0.1, 0.2), Lora("one", one, 0.2, 0.1)])
    want = answer(loras.by_hand(loras.by_hand(doubled(pipe), first, unet=0.7, text=0.5), second, unet=0.2, text=0.1))
    assert (answer(model) - want).abs().max() < 1e-6, "the same file twice counts with both weights"


def _refuse(*_: object) -> None:
    raise LookupError("read again")


def test_off_again_the_model_is_what_it_was_bit_for_bit(pipe: Any, tmp_path: Path) -> None:
    file = loras.write(pipe, tmp_path / "style.safetensors", "kohya", loras.halves(pipe))
    model = copy.deepcopy(tiny.parts(pipe))
    before, names = answer(model), [list(module.state_dict()) for module in model.modules()]
    adapters = Adapters(model)
    adapters.fit([Lora("style", file, 1.0, 1.0)])
    assert not torch.equal(answer(model), before)
    adapters.fit([])
    assert torch.equal(answer(model), before)
    assert [list(module.state_dict()) for module in model.modules()] == names
    adapters.fit([Lora("style", file, 0.0, 0.0)])
    assert torch.equal(answer(model), before), "at weight 0 a LoRA is not there"
    adapters.fit([Lora("style", file, 0.0, 1.0)])
    text = prompts.encode(model, "a cat", guided=False).embeds
    assert torch.equal(text, prompts.encode(tiny.parts(pipe), "a cat", guided=False).embeds)


def test_a_half_precision_model_takes_a_single_precision_lora(tmp_path: Path) -> None:
    pipe = tiny.sd15()
    file = loras.write(pipe, tmp_path / "style.safetensors", "kohya", loras.halves(pipe))
    model = copy.deepcopy(tiny.parts(pipe))
    for module in model.modules():
        module.to(torch.bfloat16)
    Adapters(model).fit([Lora("style", file, 1.0, 1.0)])
    assert {value.dtype for value in model.unet.parameters()} == {torch.bfloat16}
    assert torch.isfinite(answer(model)).all()


def test_diffusers_own_note_of_alpha_counts(tmp_path: Path) -> None:
    pipe = tiny.sd15()
    changes = scaled(loras.halves(pipe, only_attention=True, text=False), 5.0)
    note = {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 5}'}
    file = loras.write(pipe, tmp_path / "style.safetensors", "peft", changes, note)
    model = doubled(pipe)
    Adapters(model).fit([Lora("style", file, 1.0, 1.0)])
    assert (answer(model) - answer(loras.by_hand(doubled(pipe), changes, unet=1, text=1))).abs().max() < 1e-6


@pytest.mark.parametrize(("made_for", "used_with"), [("sd1", "sdxl"), ("sdxl", "sd1"), ("sd2", "sdxl")])
def test_a_lora_of_another_family_is_an_error_and_leaves_the_model_alone(
    tmp_path: Path, made_for: str, used_with: str
) -> None:
    other, pipe = BUILDERS[made_for](), BUILDERS[used_with]()
    file = loras.write(other, tmp_path / "style.safetensors", "kohya", loras.halves(other))
    model = copy.deepcopy(tiny.parts(pipe))
    before = answer(model)
    with pytest.raises(MissingError, match=r"style\.safetensors") as caught:
        Adapters(model).fit([Lora("style", file, 1.0, 1.0)])
    assert "famil" in caught.value.hint
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_the_header_alone_tells_the_family_of_a_real_lora(tmp_path: Path, width: int, family: str) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    file = tmp_path / "real.safetensors"
    save_file({f"{name}.lora_down.weight": torch.zeros(4, width), f"{name}.lora_up.weight": torch.zeros(320, 4)}, file)
    assert lora.family_of(read_header(file)) == family
    lora.check(file, family)
    with pytest.raises(MissingError, match=family) as caught:
        lora.check(file, "sd1" if family == "sdxl" else "sdxl")
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["lycoris", "checkpoint", "half", "cut", "flux"])
def test_a_file_that_is_no_usable_lora_is_an_error_with_a_hint(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "style.safetensors"
    name = "lora_unet_mid_block_attentions_0_proj_in"
    match kind:
        case "lycoris":
            save_file({f"{name}.hada_w1_a": torch.zeros(4, 4)}, file)
        case "checkpoint":
            tiny.write_single_file(tiny.sd15(), file)
        case "half":
            pipe = tiny.sd15()
            loras.write(pipe, file, "kohya", loras.halves(pipe))
            tensors = load_file(file)
            tensors.pop(next(key for key in tensors if "lora_up" in key))
            save_file(tensors, file)
        case "flux":
            save_file({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 4)}, file)
        case _:
            file.write_bytes(b"\0" * 100)
    with pytest.raises(MissingError) as caught:
        lora.check(file, "sd1")
        lora.read(file)
    assert caught.value.hint


def test_a_lora_is_found_by_its_bare_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "My Style.v2.safetensors"
    file.write_bytes(b"")
    os.mkfifo(tmp_path / file.name)  # it would be waited for
    assert lora.find("My Style.v2", tmp_path) == file
    assert lora.find("my style.v2", tmp_path) == file
    assert lora.find(str(file), tmp_path, as_path=True) == file
    for name in ("nothing", "../deep/My Style.v2", str(file)):  # a picture's metadata names no paths
        with pytest.raises(MissingError) as caught:
            lora.find(name, tmp_path / "nowhere" if name == "nothing" else tmp_path)
        assert "model.lora_folder" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("style", ("style", 1.0, 1.0)),
        ("style:0.8", ("style", 0.8, 0.8)),
        ("a/b:c.safetensors:0.8:-.5", ("a/b:c.safetensors", 0.8, -0.5)),
        ("style:x", ("style:x", 1.0, 1.0)),
    ],
)
def test_a_setting_names_a_lora_and_its_weights(text: str, want: tuple[str, float, float]) -> None:
    assert lora.from_setting(text) == want


def test_a_tag_names_a_lora_and_its_weights() -> None:
    assert lora.from_tag(Tag("lora", "style")) == ("style", 1.0, 1.0)
    assert lora.from_tag(Tag("lora", "style", ("0.8",))) == ("style", 0.8, 0.8)
    assert lora.from_tag(Tag("lora", "style", ("0.8", "0.3", "4"))) == ("style", 0.8, 0.3)
    assert lora.from_tag(Tag("lora", "style", ("te=0.2", "unet=0.9"))) == ("style", 0.2, 0.9)
    for bad in ("x", "1e9", "nan", "1000"):
        with pytest.raises(ConfigError) as caught:
            lora.from_tag(Tag("lora", "style", (bad,)))
        assert caught.value.hint
