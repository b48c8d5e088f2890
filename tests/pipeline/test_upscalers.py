"""Every upscaler, the built-in models and tiny model files of the user's kind included."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ImageModelDescriptor, ModelTiling
from torch.nn import functional

from tests.tiny_upscalers import compact, esrgan, save
from tilehires.errors import ConfigError, ExitCode, ImageError, MissingError
from tilehires.geometry import Size
from tilehires.upscalers import check, files, names, resolve
from tilehires.upscalers.latent import LatentMode
from tilehires.upscalers.loading import fitting_dtype, load
from tilehires.upscalers.model import ModelUpscaler, run_sizes
from tilehires.upscalers.pillow import resample

KERNELS = ["Nearest", "Box", "Bilinear", "Hamming", "Bicubic", "Lanczos", "None"]
LATENT = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}


def image(width: int = 40, height: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth, with noise on it."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    smooth = np.stack([x, y, 1 - x], axis=2)
    noise = np.random.default_rng(seed).random((height, width, 3))
    return (0.7 * smooth + 0.3 * noise).astype(np.float32)


@dataclass
class Counter:
    """Progress that remembers."""

    total: int = 0
    done: int = 0
    notes: list[str] = field(default_factory=list)

    def begin(self, what: str, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass
class Lent:
    """Lends one loaded model, as the bay does."""

    model: ImageModelDescriptor[Any]

    def upscaler(self, path: Path) -> ImageModelDescriptor[Any]:
        return self.model


def test_the_names_are_those_of_the_documentation() -> None:
    missing = {*KERNELS, *LATENT, "builtin", "builtin-4x"} - set(names())
    assert not missing, f'not among the entry points "tilehires.upscalers" (pip install -e . again?): {missing}'


@pytest.mark.parametrize("name", [*KERNELS, *LATENT, "builtin", "builtin-4x"])
@pytest.mark.parametrize("size", [Size(80, 48), Size(61, 37), Size(40, 24), Size(200, 120), Size(30, 90)])
def test_every_upscaler_gives_the_exact_size_in_range_and_leaves_its_input_alone(name: str, size: Size) -> None:
    given = image()
    before, counter = given.copy(), Counter()
    got = resolve(name).upscale(given, size, tile=32, overlap=8, progress=counter)
    assert got.shape == (size.height, size.width, 3) and got.dtype == np.float32
    assert got.min() >= 0 and got.max() <= 1 and got.flags.c_contiguous
    np.testing.assert_array_equal(given, before)
    assert counter.total == counter.done > 0


@pytest.mark.parametrize("name", [*KERNELS, *LATENT])
def test_a_flat_image_stays_flat(name: str) -> None:
    flat = np.full((5, 7, 3), 0.3, np.float32)
    np.testing.assert_allclose(resolve(name).upscale(flat, Size(17, 13)), 0.3, atol=1e-6)


def test_kernels_are_pillows_without_eight_bits() -> None:
    given = image()
    got = resolve("lanczos").upscale(given, Size(80, 48))
    plane = Image.fromarray(given[..., 1]).resize((80, 48), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(got[..., 1], np.clip(np.asarray(plane), 0, 1))
    assert len(np.unique(got)) > 5000, "there must be far more than 256 levels"


@pytest.mark.parametrize("name", [*KERNELS, *LATENT, "builtin", "builtin-4x"])
@pytest.mark.parametrize("size", [Size(80, 48), Size(61, 37), Size(160, 96), Size(200, 120)])
def test_a_canvas_that_is_lent_gets_the_same_numbers(name: str, size: Size) -> None:
    upscaler, given = resolve(name), image()
    canvas = np.zeros((size.height, size.width, 3), np.float32)
    assert upscaler.upscale(given, size, tile=16, overlap=4, out=canvas) is canvas
    np.testing.assert_array_equal(canvas, upscaler.upscale(given, size, tile=16, overlap=4))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("size", [Size(80, 48), Size(61, 37), Size(30, 90), Size(13, 11)])
def test_kernels_work_in_strips_without_a_seam(name: str, size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilehires.upscalers import pillow

    whole = resolve(name).upscale(image(), size)
    monkeypatch.setattr(pillow, "STRIP", 5 * size.width)
    np.testing.assert_allclose(resolve(name).upscale(image(), size), whole, rtol=0, atol=1e-6)


def test_nearest_at_two_doubles_every_pixel() -> None:
    given = image()
    np.testing.assert_array_equal(resolve("Nearest").upscale(given, Size(80, 48)), given.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("name", "mode"), LATENT.items())
def test_latent_modes_are_torchs_interpolations(name: str, mode: tuple[str, bool]) -> None:
    latents = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    upscaler = resolve(name)
    assert upscaler.latent and isinstance(upscaler, LatentMode)
    wanted = functional.interpolate(latents, size=(11, 15), mode=mode[0], antialias=mode[1])
    torch.testing.assert_close(upscaler.upscale_latents(latents, Size(15, 11)), wanted, atol=0, rtol=0)
    assert upscaler.upscale_latents(latents.half(), Size(15, 11)).dtype == torch.float32


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("build", [compact, esrgan])
def test_model_files_give_what_the_model_gives(tmp_path: Path, suffix: str, build: Callable[..., Path]) -> None:
    path = build(tmp_path / f"model{suffix}", scale=2)
    check(str(path))
    assert files(str(path)) == (path,)
    given = image()
    got = resolve(str(path)).upscale(given, Size(80, 48))
    wanted = load(path)(torch.from_numpy(given.transpose(2, 0, 1))[None])[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(got, wanted)


def test_tiles_of_a_model_leave_no_seam(tmp_path: Path) -> None:
    upscaler = resolve(str(compact(tmp_path / "m.safetensors")))
    given = image(150, 90)
    whole = upscaler.upscale(given, Size(300, 180), tile=512)
    counter = Counter()
    tiled = upscaler.upscale(given, Size(300, 180), tile=48, overlap=24, progress=counter)
    assert counter.total > 8, "this test must use many tiles"
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("size", [Size(300, 180), Size(225, 135), Size(301, 181), Size(431, 262), Size(150, 90)])
def test_a_size_that_is_not_the_models_own_is_lanczos_of_it(tmp_path: Path, size: Size) -> None:
    upscaler = resolve(str(compact(tmp_path / "m.safetensors", scale=4)))
    given = image(150, 90)
    wanted = np.clip(resample(upscaler.upscale(given, Size(600, 360)), size), 0, 1)
    for tile in (512, 64):
        got = upscaler.upscale(given, size, tile=tile, overlap=32)
        np.testing.assert_allclose(got, wanted, atol=2e-4, err_msg=f"tile {tile}")


def test_tiles_made_smaller_one_by_one_cost_no_canvas_of_the_models_size(tmp_path: Path) -> None:
    import tracemalloc

    upscaler = resolve(str(compact(tmp_path / "m.safetensors", scale=4)))
    given, size = image(256, 256), Size(512, 512)
    upscaler.upscale(given[:8, :8], Size(16, 16))
    tracemalloc.start()
    upscaler.upscale(given, size, tile=64, overlap=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    native = 1024 * 1024 * 3 * 4
    assert peak < native, f"{peak / 2**20:.1f} MiB: the 1024x1024 canvas ({native / 2**20:.0f} MiB) must never exist"


@pytest.mark.parametrize(
    ("scale", "target", "runs"),
    [
        (2, 80, 1),
        (2, 81, 1),
        (2, 100, 2),
        (2, 160, 2),
        (2, 320, 3),
        (2, 1000, 3),
        (4, 80, 1),
        (4, 161, 1),
        (4, 200, 2),
        (1, 80, 1),
    ],
)
def test_a_model_is_run_until_the_size_is_reached_at_most_three_times(scale: int, target: int, runs: int) -> None:
    sizes = run_sizes(Size(40, 40), Size(target, target), scale)
    assert len(sizes) == runs
    assert [size.width for size in sizes] == [40 * scale**i for i in range(runs)]


def test_size_requirements_are_met_by_padding_that_is_cut_off_again(tmp_path: Path) -> None:
    path = esrgan(tmp_path / "m.safetensors", scale=2, shuffle=2)
    assert load(path).size_requirements.multiple_of == 4, "this test needs a model that asks for something"
    got = resolve(str(path)).upscale(image(41, 23), Size(82, 46), tile=17, overlap=6)
    assert got.shape == (46, 82, 3) and np.isfinite(got).all()
    assert resolve(str(path)).upscale(image(1, 1), Size(2, 2)).shape == (2, 2, 3)


def test_models_of_one_channel_see_the_three_one_by_one(tmp_path: Path) -> None:
    path = compact(tmp_path / "m.safetensors", channels=1)
    given = image()
    got = resolve(str(path)).upscale(given, Size(80, 48))
    green = load(path)(torch.from_numpy(np.ascontiguousarray(given[None, None, ..., 1])))
    np.testing.assert_array_equal(got[..., 1], green[0, 0].numpy())


@pytest.mark.parametrize(
    ("tiling", "calls"), [(ModelTiling.SUPPORTED, 6), (ModelTiling.DISCOURAGED, 1), (ModelTiling.INTERNAL, 1)]
)
def test_what_a_model_says_about_tiling_is_respected(tmp_path: Path, tiling: ModelTiling, calls: int) -> None:
    path = compact(tmp_path / "m.safetensors")
    model = load(path)
    model.tiling = tiling
    counter = Counter()
    ModelUpscaler("m", path, Lent(model)).upscale(image(80, 50), Size(160, 100), tile=32, overlap=4, progress=counter)
    assert counter.total == calls


def test_half_formats_are_used_only_where_the_model_supports_them(tmp_path: Path) -> None:
    model = load(compact(tmp_path / "m.safetensors"))
    for half, bfloat, wanted, fits in [
        (True, True, torch.float16, torch.float16),
        (False, True, torch.float16, torch.bfloat16),
        (False, False, torch.float16, torch.float32),
        (True, False, torch.bfloat16, torch.float32),
        (False, False, torch.float32, torch.float32),
    ]:
        model.supports_half, model.supports_bfloat16 = half, bfloat
        assert fitting_dtype(model, wanted) == fits


def test_a_model_that_overflows_in_half_precision_goes_on_in_float32(tmp_path: Path) -> None:
    path = compact(tmp_path / "m.safetensors")
    state = load(path).model.state_dict()
    state["body.0.weight"] *= 1e5
    state["body.2.weight"] *= 1e-5
    model = load(save(state, path))
    wanted = ModelUpscaler("m", path, Lent(model)).upscale(image(), Size(80, 48))
    got = ModelUpscaler("m", path, Lent(model.to(torch.bfloat16).to(torch.float16))).upscale(image(), Size(80, 48))
    assert model.dtype == torch.float32
    np.testing.assert_allclose(got, wanted, atol=0.05)


def test_values_that_stay_not_finite_are_an_error(tmp_path: Path) -> None:
    path = compact(tmp_path / "m.safetensors")
    state = load(path).model.state_dict()
    state["body.0.bias"][:] = torch.nan
    with pytest.raises(ImageError, match="finite"):
        resolve(str(save(state, path))).upscale(image(), Size(80, 48))


def test_two_runs_are_equal_to_the_bit() -> None:
    first, second = (resolve("builtin").upscale(image(90, 70), Size(180, 140), tile=40, overlap=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Payload:
    """On unpickling, runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path, suffix: str, kind: str) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "ran"
    state = load(compact(tmp_path / "good.safetensors")).model.state_dict()
    body = {"params": state, "extra": Payload(trace)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(body))
    else:
        torch.save(body, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(MissingError) as caught:
        check(str(path))
    assert not trace.exists(), "the file's code has run"
    assert caught.value.hint


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Conv2d(3, 3, 1)).save(str(path))
    with pytest.raises(MissingError):
        check(str(path))


def broken_files() -> dict[str, Callable[[Path], object]]:
    def cut(path: Path) -> None:
        compact(path)
        path.write_bytes(path.read_bytes()[:-100])

    def wrong_shape(path: Path) -> None:
        state = load(compact(path)).model.state_dict()
        save(state | {"body.0.bias": torch.zeros(5)}, path)

    return {
        "empty.safetensors": lambda path: path.touch(),
        "text.safetensors": lambda path: path.write_text("<html>Not found</html>"),
        "text.pth": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "empty.pth": lambda path: path.touch(),
        "cut.safetensors": cut,
        "cut.pth": cut,
        "shape.safetensors": wrong_shape,
        "unknown.safetensors": lambda path: save({"model.diffusion_model.out.0.weight": torch.zeros(3)}, path),
        "list.pth": lambda path: torch.save([1, 2], path),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_file_that_does_not_load_is_an_error_before_the_run(tmp_path: Path, name: str) -> None:
    broken_files()[name](tmp_path / name)
    with pytest.raises(MissingError) as caught:
        check(str(tmp_path / name))
    assert caught.value.exit_code == ExitCode.MISSING
    assert name in caught.value.message and caught.value.hint


def test_a_missing_file_and_an_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not there"):
        resolve(str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError) as caught:
        check("lancsoz")
    assert "Did you mean 'Lanczos'?" in caught.value.hint
