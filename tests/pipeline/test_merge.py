"""Two checkpoints made one: each tensor the weighted sum, the file a checkpoint like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.batches import Workplace, workplace
from tilehires.diffusion import checkpoints
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.merge import merge
from tilehires.errors import ConfigError, MissingError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    a = tiny.write_single_file(tiny.sd15(0), folder / "a.safetensors")
    return a, tiny.write_single_file(tiny.sd15(1), folder / "b.safetensors")


@pytest.fixture
def work(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_every_tensor_is_the_weighted_sum(pair: tuple[Path, Path], tmp_path: Path, weight: float) -> None:
    out = tmp_path / "out.safetensors"
    merge(*pair, weight, out)
    a, b, got = (load_file(path) for path in (*pair, out))
    assert got.keys() == a.keys()
    for name, value in got.items():
        if not value.is_floating_point():
            assert torch.equal(value, a[name])
            continue
        assert torch.equal(value, a[name] * (1 - weight) + b[name] * weight), name
        if weight in (0, 1):
            assert torch.equal(value, (a if weight == 0 else b)[name]), name


def test_the_result_loads_and_says_what_it_is(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    merge(*pair, 0.5, out, hashes={"a": "1" * 64})
    found = checkpoints.inspect(str(out))
    assert found.family.name == "sd1"
    assert Bay().diffusion(found).unet is not None
    with safe_open(out, framework="pt") as file:
        said = json.loads(file.metadata()["tilehires.merge"])
    assert said["weight"] == 0.5
    assert [source["name"] for source in said["sources"]] == ["a.safetensors", "b.safetensors"]
    assert said["sources"][0]["sha256"] == "1" * 64
    again = tmp_path / "again.safetensors"
    merge(*pair, 0.5, again, hashes={"a": "1" * 64})
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_sums_are_made_in_float32_and_rounded_once(
    pair: tuple[Path, Path], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    halves = [tmp_path / path.name for path in pair]
    for path, half in zip(pair, halves, strict=True):
        save_file({n: v.half() if v.is_floating_point() else v for n, v in load_file(path).items()}, half)
    out = tmp_path / "out.safetensors"
    merge(halves[0], halves[1], 0.3, out, dtype=name)
    a, b, got = (load_file(path) for path in (*halves, out))
    key = next(key for key, value in got.items() if value.ndim == 4)
    assert got[key].dtype == dtype
    assert torch.equal(got[key], (a[key].float() * 0.7 + b[key].float() * 0.3).to(dtype))
    merge(halves[0], halves[1], 0.3, out, overwrite=True)
    assert load_file(out)[key].dtype == torch.float16, "by default as the first file"


def test_what_only_one_holds_is_taken_over(pair: tuple[Path, Path], tmp_path: Path) -> None:
    bare = tiny.write_single_file(tiny.sd15(1), tmp_path / "bare.safetensors", without=("vae",))
    state = load_file(bare) | {"model_ema.decay": torch.zeros(1)}
    save_file(state, bare)
    merge(bare, pair[0], 0.5, tmp_path / "out.safetensors")
    got, a = load_file(tmp_path / "out.safetensors"), load_file(pair[0])
    vae = [name for name in a if name.startswith("first_stage_model.")]
    assert vae
    assert all(torch.equal(got[name], a[name]) for name in vae)
    assert "model_ema.decay" not in got, "training's leftovers are dead weight"


def test_numbers_that_dont_fit_are_an_error_and_leave_no_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    state = load_file(pair[0])
    key = next(key for key, value in state.items() if value.ndim == 4)
    state[key] = state[key] + 1e6
    save_file(state, tmp_path / "large.safetensors")
    out = tmp_path / "out.safetensors"
    with pytest.raises(ConfigError, match="too large") as caught:
        merge(tmp_path / "large.safetensors", pair[1], 0.5, out, dtype="fp16")
    assert "bf16" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.safetensors"]


@pytest.mark.parametrize("other", ["sdxl", "v_pred", "cut", "lora", "missing", "pickle", "inpaint"])
def test_two_that_dont_go_together_are_an_error_with_a_hint(
    pair: tuple[Path, Path], tmp_path: Path, other: str
) -> None:
    file = tmp_path / ("other.ckpt" if other == "pickle" else "other.safetensors")
    state = load_file(pair[1])
    match other:
        case "sdxl":
            tiny.write_single_file(tiny.sdxl(), file)
        case "v_pred":
            tiny.write_single_file(tiny.sd15(1), file, marks=("v_pred",))
        case "cut":
            file.write_bytes(pair[1].read_bytes()[:1000])
        case "lora":
            save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, file)
        case "pickle":
            file.write_bytes(b"\x80\x04.")
        case "inpaint":
            name = "model.diffusion_model.input_blocks.0.0.weight"
            save_file(state | {name: torch.cat([state[name]] * 2, 1)}, file)
    with pytest.raises((ConfigError, MissingError)) as caught:
        merge(pair[0], file, 0.5, tmp_path / "out.safetensors")
    assert caught.value.hint
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_merges_and_never_overwrites_by_itself(pair: tuple[Path, Path], work: Workplace) -> None:
    out = work.root / "out.safetensors"
    words = ("models", "merge", *pair, "-w", "0.25", "-o", out)
    ended = work.command(*words)
    assert ended.code == 0, ended.err
    assert "sha256" in ended.out
    first = out.read_bytes()
    ended = work.command(*words)
    assert ended.code == 2
    assert "--overwrite" in ended.err
    assert out.read_bytes() == first
    assert work.command(*words[:-3], "0.5", "-o", out, "--overwrite").code == 0
    assert out.read_bytes() != first
    for bad in (("-w", "1.5"), ("-w", "nan"), ("-o", pair[0], "--overwrite"), ("-o", "out.ckpt")):
        ended = work.command(*words, *bad)
        assert ended.code == 2, bad
        assert "Traceback" not in ended.err
    assert work.command("models", "merge", pair[0], "nothing.safetensors", "-o", "x.safetensors").code == 5
