"""`tilehires upscale`: two upscalers mixed, sizes, faces, and a batch that nothing in the folder can end."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from skimage.data import astronaut
from spandrel import Architecture, ArchSupport, ImageModelDescriptor, ModelLoader, UnsupportedModelError

from tests import tiny_upscalers
from tests.batches import Workplace, draw, drawing, outputs, workplace
from tilehires.errors import ExitCode, MissingError
from tilehires.geometry import Box, Size
from tilehires.upscalers import loading, restore
from tilehires.upscalers.faces import frontal_faces
from tilehires.upscalers.loading import load_restorer
from tilehires.upscalers.restore import SIDE, FaceRestorer, feather, framed

LANCZOS = ("--upscaler", "Lanczos")


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def upscale(place: Workplace, *words: str | Path, output: Path | None = None) -> Any:
    return place.command("upscale", place.input, "-o", output or place.output, *words)


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_two_upscalers_are_mixed_as_image_blend_does(place: Workplace) -> None:
    draw(place.input / "a.png")
    made = {}
    for name, words in {
        "one": LANCZOS,
        "two": ("--upscaler", "Nearest"),
        "mixed": (*LANCZOS, "--upscaler-2", "Nearest", "--visibility-2", "0.3"),
        "none": (*LANCZOS, "--upscaler-2", "Nearest", "--visibility-2", "0"),
    }.items():
        assert upscale(place, *words, output=place.root / name).code == ExitCode.OK
        made[name] = Image.open(place.root / name / "a.png").convert("RGB")
    want = np.asarray(Image.blend(made["one"], made["two"], 0.3)).astype(int)
    assert np.abs(want - np.asarray(made["mixed"])).max() <= 1, "rounded once here, twice by Image.blend"
    assert (np.asarray(made["none"]) == np.asarray(made["one"])).all()


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ((), (48, 32)),
        (("--by", "3"), (72, 48)),
        (("--by", "0.5"), (12, 8)),
        (("--to", "60x60"), (60, 60)),
        (("--to", "60x60", "--no-crop"), (90, 60)),
        (("--to", "100x0"), (100, 67)),
    ],
)
def test_the_size_is_exact(place: Workplace, words: tuple[str, ...], size: tuple[int, int]) -> None:
    draw(place.input / "a.png")
    assert upscale(place, *LANCZOS, *words).code == ExitCode.OK
    with Image.open(place.output / "a.png") as image:
        assert image.size == size


def test_what_tiles_goes_on_tiling(place: Workplace) -> None:
    """Rolling what goes in rolls what comes out; where it can't, the image is refused."""
    pixels = drawing(24, 16)
    for name, rolled in (("a", 0), ("b", 8)):
        Image.fromarray(np.roll(pixels, rolled, 1)).save(place.input / f"{name}.png")
    for axes in "xy":
        output = place.root / axes
        assert upscale(place, *LANCZOS, "--seamless", axes, output=output).code == ExitCode.OK
        apart = np.abs(np.roll(levels(output / "a.png"), 16, 1) - levels(output / "b.png")).max()
        assert (apart <= 1) == (axes == "x"), apart
    refused = upscale(place, *LANCZOS, "--seamless", "both", "--to", "60x60")
    assert refused.code == ExitCode.IMAGES_FAILED and "--no-crop" in refused.err


def test_a_model_file_is_an_upscaler_and_metadata_stays(place: Workplace, tmp_path: Path) -> None:
    model = tiny_upscalers.compact(tmp_path / "two.safetensors")
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a fox\nSteps: 20, Sampler: Euler, Seed: 3")
    draw(place.input / "a.png", pnginfo=info)
    assert upscale(place, "--upscaler", model, "--upscaler-2", "Lanczos").code == ExitCode.OK
    with Image.open(place.output / "a.png") as image:
        assert image.info["parameters"] == "a fox\nSteps: 20, Sampler: Euler, Seed: 3"
        assert image.info["extras"] == (
            "Postprocess upscale by: 2.0, Postprocess upscaler: two, Postprocess upscaler 2: Lanczos, "
            "Postprocess upscaler 2 visibility: 0.5"
        )


def test_nothing_in_the_folder_ends_the_batch_and_nothing_is_done_twice(place: Workplace) -> None:
    draw(place.input / "a.png")
    draw(place.input / "sub" / "b.jpg", seed=1)
    cover = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1))
    Image.fromarray(np.dstack([drawing(24, 16, 5), cover])).save(place.input / "alpha.png")
    (place.input / "broken.png").write_bytes((place.input / "a.png").read_bytes()[:200])
    (place.input / "notes.md").write_text("no image")
    (place.output / "sub").mkdir(parents=True)
    theirs = place.output / "sub" / "b.png"
    theirs.write_bytes(b"somebody else's")
    ended = upscale(place, *LANCZOS)
    assert ended.code == ExitCode.IMAGES_FAILED
    assert "2 done, 0 flagged, 2 failed, 1 skipped" in ended.out
    assert theirs.read_bytes() == b"somebody else's" and "didn't make it" in ended.out
    assert set(outputs(place.output)) == {"a.png", "alpha.png", "sub/b.png"}
    theirs.unlink()
    before = outputs(place.output)
    again = upscale(place, *LANCZOS)
    assert "3 done (2 already were), 0 flagged, 1 failed" in again.out
    assert {name: outputs(place.output)[name] for name in before} == before
    assert "already were" not in upscale(place, "--upscaler", "Nearest").out
    assert all(outputs(place.output)[name] != before[name] for name in before)
    with Image.open(place.output / "alpha.png") as image:
        assert image.mode == "RGBA"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--by", "2", "--to", "9x9"), ExitCode.USAGE, "--by and --to"),
        (("--by", "0"), ExitCode.USAGE, "out of range"),
        (("--to", "ten"), ExitCode.USAGE, "is no size"),
        (("--to", "0x0"), ExitCode.USAGE, "0x0"),
        (("--visibility-2", "2"), ExitCode.USAGE, "visibility of 2"),
        (("--upscaler", "Lanczoz"), ExitCode.USAGE, "Did you mean 'Lanczos'"),
        (("--upscaler", "gone.pth"), ExitCode.MISSING, "is not there"),
        (("--restore", "gone.pth"), ExitCode.MISSING, "is not there"),
        (("--device", "cuda:7"), ExitCode.MISSING, "no device"),
    ],
)
def test_wrong_usage_is_said(place: Workplace, words: tuple[str, ...], code: ExitCode, said: str) -> None:
    draw(place.input / "a.png")
    ended = upscale(place, *words)
    assert ended.code == code and said in ended.err and "hint: " in ended.err
    assert not outputs(place.output) if place.output.exists() else True


def test_no_diffusion_is_imported(place: Workplace) -> None:
    draw(place.input / "a.png")
    code = (
        "import sys\nfrom tilehires.cli import main\n"
        f"try: main(['upscale', {str(place.input)!r}, '-o', {str(place.output)!r}, '-q'])\nexcept SystemExit as e: print(e)\n"
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.stdout.splitlines() == ["0", "[]"], done.stdout + done.stderr
    assert set(outputs(place.output)) == {"a.png"}


# Faces


def face_image() -> np.ndarray:
    return (astronaut()[:300, 80:380] / np.float32(255)).astype(np.float32)


def test_a_face_is_found_where_it_is_and_none_in_texture() -> None:
    [face] = frontal_faces(face_image())
    centre = ((face.x0 + face.x1) / 2, (face.y0 + face.y1) / 2)
    assert abs(centre[0] - 143) < 25 and abs(centre[1] - 115) < 30, f"{face} is not the astronaut's face"
    assert frontal_faces((drawing(120, 90) / np.float32(255)).astype(np.float32)) == ()


@pytest.mark.parametrize("face", [Box(0, 0, 40, 50), Box(90, 70, 100, 80), Box(-5, 10, 200, 160), Box(40, 30, 60, 55)])
def test_frames_are_squares_inside_the_image(face: Box) -> None:
    box = framed(face, Size(100, 80))
    assert box.width == box.height > 0 and box.clip(Size(100, 80)) == box


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaceRestorer]:
    """RestoreFormer's real architecture with random weights, as thin as its norms allow, at 128² for speed."""
    path = tiny_upscalers.restoreformer(tmp_path_factory.mktemp("faces") / "face.safetensors")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(restore, "SIDE", 128)
        yield FaceRestorer(path)


def test_a_restored_face_is_put_back_softly_and_nothing_else_changes(restorer: FaceRestorer) -> None:
    image = face_image()
    before = image.copy()
    whole, [face] = restorer.restore(image)
    half, _ = restorer.restore(image, 0.5)
    none, _ = restorer.restore(image, 0.0)
    assert (image == before).all() and (none == image).all()
    box = framed(face, Size(300, 300))
    outside = np.ones((300, 300), bool)
    outside[box.slices] = False
    assert (whole[outside] == image[outside]).all()
    inside = np.abs(whole - image)[box.slices]
    assert inside[box.height // 2 - 5 : box.height // 2 + 5].max() > 0.02, "the middle is the model's"
    assert inside[0].max() < 0.02 and inside[:, -1].max() < 0.02, "a seam where the frame ends"
    np.testing.assert_allclose(half, (whole + image) / 2, atol=1e-5)


def test_the_feather_reaches_one_inside_and_nearly_zero_at_the_border() -> None:
    weights = feather(Size(200, 100))
    assert weights.shape == (100, 200) and weights[50, 100] == 1 and weights[0].max() < 0.01


def test_gfpgan_and_codeformer_get_what_they_were_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in behind spandrel's descriptor: both take and give [-1, 1], which their descriptors hand through."""
    seen: list[torch.Tensor] = []

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            seen.append(x)
            return x * 0.5, None

    class Descriptor:
        model, device = Net(), torch.device("cpu")

        class architecture:  # noqa: N801 - spandrel's name
            id = "GFPGAN"

    face = np.full((SIDE, SIDE, 3), 0.25, np.float32)
    made = restore._run(Descriptor(), face)  # type: ignore[arg-type]
    assert torch.all(seen[0] == -0.5) and np.allclose(made, 0.375)


def codeformers_names() -> dict[str, torch.Tensor]:
    """A file with the tensors that CodeFormer is told by. Its VQGAN has one size, of 60 million numbers: too many for tests."""
    names = ("position_emb", "idx_pred_layer.1.weight", "quantize.embedding.weight", "encoder.blocks.0.weight")
    return {name: torch.zeros(2, 2) for name in (*names, "ft_layers.0.self_attn.in_proj_weight")}


def test_codeformer_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    path = tiny_upscalers.save(codeformers_names(), tmp_path / "codeformer.pth")
    with pytest.raises(MissingError) as refused:
        load_restorer(path)
    assert "pip install spandrel_extra_arches" in refused.value.hint


def test_codeformer_comes_from_its_package_and_gets_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for spandrel_extra_arches: a registry with an architecture of that name, which notes what it sees."""
    seen: list[torch.Tensor] = []

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position_emb = torch.nn.Parameter(torch.zeros(2, 2))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            seen.append(x)
            return x * 0.5, None

    class CodeFormer(Architecture[Net]):
        def __init__(self) -> None:
            super().__init__(id="CodeFormer", detect=lambda state: "position_emb" in state)

        def load(self, state_dict: Any) -> ImageModelDescriptor[Net]:
            return ImageModelDescriptor(
                Net(),
                {"position_emb": state_dict["position_emb"]},
                architecture=self,
                purpose="FaceSR",
                tags=[],
                supports_half=False,
                supports_bfloat16=True,
                scale=1,
                input_channels=3,
                output_channels=3,
                call_fn=lambda model, image: model(image)[0],
            )

    package = types.ModuleType("spandrel_extra_arches")
    package.__spec__ = ModuleSpec(package.__name__, None)
    package.EXTRA_REGISTRY = (ArchSupport.from_architecture(CodeFormer()),)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    path = tiny_upscalers.save(codeformers_names(), tmp_path / "codeformer.pth")
    image = np.full((64, 64, 3), 0.25, np.float32)
    made, [face] = FaceRestorer(path, find=lambda image: (Box(20, 20, 44, 44),)).restore(image)
    assert torch.all(seen[0] == -0.5), "[-1, 1], not [0, 1]"
    assert made[32, 32] == pytest.approx(0.375) and (made[0] == image[0]).all() and face == Box(20, 20, 44, 44)
    with pytest.raises(UnsupportedModelError):
        ModelLoader().load_from_file(path)  # spandrel's own list stays as it is


def test_an_upscaler_is_no_face_restorer_and_the_other_way_round(restorer: FaceRestorer, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no face restoration model"):
        load_restorer(tiny_upscalers.compact(tmp_path / "two.safetensors"))
    from tilehires import upscalers

    with pytest.raises(MissingError, match="no upscaler"):
        upscalers.check(str(restorer.path))


def test_faces_are_restored_in_a_batch(restorer: FaceRestorer, place: Workplace) -> None:
    place.input.mkdir(exist_ok=True)
    Image.fromarray(astronaut()[:300, 80:380]).save(place.input / "a.png")
    words = (*LANCZOS, "--by", "1")
    assert upscale(place, *words, output=place.root / "plain").code == ExitCode.OK
    assert upscale(place, *words, "--restore", restorer.path, "--restore-visibility", "0.8").code == ExitCode.OK
    changed = np.abs(levels(place.output / "a.png") - levels(place.root / "plain" / "a.png")).max(2)
    assert changed[80:150, 110:170].max() > 4 and changed[250:].max() == 0
