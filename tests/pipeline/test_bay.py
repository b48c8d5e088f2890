"""Offloading: where weights are while a model works changes no bit of its answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from tests import tiny
from tilehires.diffusion.bay import Bay
from tilehires.memory import Offload


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    return tiny.sd15().unet


def answer(unet: torch.nn.Module) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 77, 32, generator=draw)
    with torch.no_grad():
        return unet(x, torch.tensor(5), encoder_hidden_states=text).sample


def test_a_streamed_unet_answers_the_same_and_is_put_back(unet: torch.nn.Module) -> None:
    want, before = answer(unet), {name: value.data_ptr() for name, value in unet.named_parameters()}
    with Bay(offload="streamed").on_device(unet):
        assert all(value.is_meta for value in unet.parameters()), "weights are on the device between the calls"
        assert torch.equal(answer(unet), want)
    assert {name: value.data_ptr() for name, value in unet.named_parameters()} == before
    assert torch.equal(answer(unet), want)


def test_a_streamed_unet_is_put_back_after_an_error(unet: torch.nn.Module) -> None:
    want = answer(unet)
    with pytest.raises(RuntimeError, match="ended"), Bay(offload="streamed").on_device(unet):
        raise RuntimeError("ended")
    assert torch.equal(answer(unet), want)


class Placed(Bay):
    """Notes what is moved where, as if there were a device."""

    def __init__(self) -> None:
        super().__init__()
        self.where: dict[torch.nn.Module, str] = {}

    def _move(self, modules: Iterable[torch.nn.Module], device: torch.device) -> None:
        for module in modules:
            self.where[module] = "host" if device is not self.device else "device"


@pytest.mark.parametrize("offload", ["staged", "resident"])
def test_models_take_turns_or_stay(offload: Offload) -> None:
    bay, first, second = Placed(), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    bay.offload = offload
    with bay.on_device(first):
        assert bay.where[first] == "device"
    with bay.on_device(second):
        assert bay.where == {first: "device" if offload == "resident" else "host", second: "device"}
    bay.offload = "streamed"
    assert bay.where == {first: "host", second: "host"}, "changing the offload clears the device"


@pytest.mark.parametrize("offload", ["staged", "resident"])
def test_a_refiner_comes_when_the_other_is_gone_or_both_stay(offload: Offload) -> None:
    bay, first, second = Placed(), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    bay.offload = offload
    with bay.on_device(first):
        with bay.instead(second):
            assert bay.where == {first: "device" if offload == "resident" else "host", second: "device"}
        assert bay.where == {first: "device", second: "device" if offload == "resident" else "host"}
        with pytest.raises(RuntimeError, match="ended"), bay.instead(second):
            raise RuntimeError("ended")
    bay.offload = "streamed"
    assert bay.where == {first: "host", second: "host"}


def test_streamed_neither_is_on_the_device(unet: torch.nn.Module) -> None:
    other, small = tiny.sd15(1).unet, torch.nn.Linear(1, 1)
    want, bay = answer(other), Placed()
    bay.offload = "streamed"
    with bay.on_device(unet, small):
        with bay.instead(other):
            assert bay.where[small] == "host"
            assert all(value.is_meta for one in (unet, other) for value in one.parameters())
            assert torch.equal(answer(other), want)
        assert bay.where[small] == "device"
        assert all(value.is_meta for value in unet.parameters())
        assert not any(value.is_meta for value in other.parameters())


def test_an_upscaler_keeps_the_format_it_fell_back_to(tmp_path: Path) -> None:
    from tilehires.diffusion.checkpoints import BUILTIN_FOLDER

    path = BUILTIN_FOLDER.parent / "upscale_2x.safetensors"
    bay = Bay(dtype=torch.bfloat16)
    assert bay.upscaler(path).dtype == torch.bfloat16
    bay.upscaler(path).float()  # half precision overflowed
    assert bay.upscaler(path).dtype == torch.float32
