"""Detectors: real ultralytics and ONNX files (random weights), scikit-image's cascade, mediapipe's answers; safe loading."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilehires import detectors
from tilehires.cli import main
from tilehires.detectors import DetectorFile
from tilehires.detectors.mediapipe import Mediapipe, task_of
from tilehires.detectors.picture import cut_mask, enlarged, reduced
from tilehires.errors import ConfigError, MissingError
from tilehires.geometry import Box, Size


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    from skimage import data

    return data.astronaut().astype(np.float32) / 255


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nano.pt, nano-seg.pt and nano.onnx: real architectures, random weights."""
    from tilehires.detectors import yolo

    folder = tmp_path_factory.mktemp("weights")
    library = yolo._ultralytics()
    here = Path.cwd()
    os.chdir(folder)
    try:
        for name, architecture in (("nano", "yolov8n"), ("nano-seg", "yolov8n-seg")):
            model = library.YOLO(f"{architecture}.yaml")
            model.model.names = dict(enumerate(["person", "dog", *(f"thing {i}" for i in range(2, 80))]))
            model.save(str(folder / f"{name}.pt"))
        library.YOLO(str(folder / "nano.pt")).export(format="onnx", imgsz=320, simplify=False, verbose=False)
    finally:
        os.chdir(here)
    return folder


def test_the_face_of_the_astronaut_is_found_without_any_download(astronaut: np.ndarray) -> None:
    found = detectors.find("face")
    assert found.files == ()
    detector = detectors.make(found)
    faces = detector.detect(astronaut, confidence=found.values["confidence"])
    assert len(faces) == 1, faces
    assert faces[0].kind == "face"
    box = faces[0].box
    assert abs((box.x0 + box.x1) / 2 - 224) < 15, "her face is about (224, 115)"
    assert abs((box.y0 + box.y1) / 2 - 115) < 20
    larger = np.repeat(np.repeat(astronaut[:200, 100:350], 4, 0), 4, 1)
    (again,) = detector.detect(larger, confidence=0.6)
    assert np.abs(np.array(again.box.as_list()) / 4 - [box.x0 - 100, box.y0, box.x1 - 100, box.y1]).max() < 12
    assert detector.detect(astronaut[:20, :20], confidence=0.0) == ()


@pytest.mark.parametrize("file", ["nano.pt", "nano-seg.pt", "nano.onnx"])
def test_yolo_files_are_read_and_boxes_lie_in_the_pictures_own_pixels(weights: Path, file: str) -> None:
    detector = detectors.make(detectors.find(str(weights / file)))
    picture = np.random.default_rng(0).random((300, 1400, 3)).astype(np.float32)
    found = detector.detect(picture, confidence=1e-6)
    assert found, "random weights find something everywhere at that confidence"
    assert list(found) == sorted(found, key=lambda d: (-d.score, d.box.y0, d.box.x0))
    for one in found:
        assert 0 <= one.box.x0 < one.box.x1 <= 1400
        assert 0 <= one.box.y0 < one.box.y1 <= 300
        assert 0 <= one.score <= 1
        if one.mask is not None:
            assert one.mask.shape == (one.box.height, one.box.width)
    assert any(one.mask is not None for one in found) == (file == "nano-seg.pt")
    again = detectors.make(detectors.find(str(weights / file))).detect(picture, confidence=1e-6)
    assert [(d.box, d.score) for d in again] == [(d.box, d.score) for d in found]
    detector.close()


def test_classes_choose_what_is_looked_for(weights: Path) -> None:
    picture = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    found = DetectorFile("p", str(weights / "nano.pt"), ("person", "dog"))
    kinds = {d.kind for d in detectors.make(found).detect(picture, confidence=1e-6)}
    assert kinds <= {"person", "dog"}
    assert kinds
    with pytest.raises(MissingError, match="knows no class 'unicorn'"):
        detectors.check(DetectorFile("p", str(weights / "nano.pt"), ("unicorn",)))


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_pt_that_carries_code_is_refused_and_nothing_runs(weights: Path, tmp_path: Path) -> None:
    import torch

    for name, write in (
        ("zip.pt", lambda path: torch.save({"model": Payload(tmp_path / "ran")}, path)),
        ("raw.pt", lambda path: path.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))),
    ):
        write(tmp_path / name)
        with pytest.raises(MissingError) as refused:
            detectors.check(detectors.find(str(tmp_path / name)))
        assert refused.value.exit_code == 5
        assert refused.value.hint
    assert not (tmp_path / "ran").exists(), "the file's code ran"


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04" + b"x" * 100])
@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".task"])
def test_a_damaged_file_is_exit_5(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(MissingError) as refused:
        detectors.check(detectors.find(str(path)))
    assert refused.value.hint


def test_a_truncated_file_is_exit_5(weights: Path, tmp_path: Path) -> None:
    for name in ("nano.pt", "nano.onnx"):
        cut = tmp_path / name
        cut.write_bytes((weights / name).read_bytes()[:100_000])
        with pytest.raises(MissingError):
            detectors.check(detectors.find(str(cut)))


def test_a_missing_file_is_an_error_and_never_a_download(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not there"):
        detectors.find(str(tmp_path / "yolov8n.pt"))
    (tmp_path / "d.toml").write_text('weights = "yolov8n.pt"')
    with pytest.raises(MissingError, match="Nothing is downloaded unasked"):
        detectors.find(str(tmp_path / "d.toml"))


def test_a_loaded_detector_leaves_pillow_as_it_is(weights: Path, tmp_path: Path) -> None:
    # ultralytics' own Image.open runs pip at a file that Pillow doesn't know.
    detectors.check(detectors.find(str(weights / "nano.pt")))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(tmp_path / "bad.png")
    assert Image.open.__module__ == "PIL.Image"


def test_an_ultralytics_imported_without_safe_loading_is_not_used(weights: Path) -> None:
    code = (
        "import ultralytics\n"
        "from tilehires import detectors\n"
        f"detectors.check(detectors.find({str(weights / 'nano.pt')!r}))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ULTRALYTICS_SAFE_LOAD"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert "can't load files safely" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"', "names no weights"),
        ("weights = 3", "names no weights"),
        ('weights = "builtin:hand"', "there is no builtin:hand"),
        ('weights = "builtin:face"\nclasses = "face"', "no list of names"),
        ('weights = "builtin:face"\ntask = "cat"', "task = 'cat' is unknown"),
        ('weights = "model.safetensors"', "no kind of detector"),
        ("weights = [", "can't be read"),
    ],
)
def test_a_wrong_toml_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as wrong:
        detectors.find(str(path))
    assert wrong.value.hint


def test_a_detector_is_found_by_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "eyes.toml").write_text('weights = "builtin:face"\ndenoise = 0.3')
    assert detectors.find("eyes").values == {"denoise": 0.3}
    assert detectors.names() == ("eyes", "face")
    with pytest.raises(ConfigError, match="Did you mean 'eyes'"):
        detectors.find("eye")


# mediapipe: its answers are stood in for, because no model of it can be had offline.


def landmark(x: float, y: float) -> Any:
    return types.SimpleNamespace(x=x, y=y)


class Mask:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy_view(self) -> np.ndarray:
        return self.values


class FakeRunner:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def detect(self, image: Any) -> Any:
        return self.answer

    segment = detect

    def close(self) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from tilehires.detectors import mediapipe

    library = types.SimpleNamespace(
        Image=lambda image_format, data: data, ImageFormat=types.SimpleNamespace(SRGB=1), answer=None
    )
    monkeypatch.setattr(mediapipe, "_library", lambda: library)
    monkeypatch.setattr(mediapipe, "_made", lambda lib, task, path, confidence: FakeRunner(library.answer))
    yield library


def test_mediapipes_answers_become_detections(stand_in: Any, tmp_path: Path) -> None:
    picture = np.zeros((100, 200, 3), np.float32)
    corner = types.SimpleNamespace(origin_x=20, origin_y=10, width=30, height=40)
    score = types.SimpleNamespace(score=0.9)
    stand_in.answer = types.SimpleNamespace(detections=[types.SimpleNamespace(bounding_box=corner, categories=[score])])
    (face,) = Mediapipe(tmp_path / "f.tflite", task="face").detect(picture, confidence=0.5)
    assert (face.kind, face.box, face.score, face.mask) == ("face", Box(20, 10, 50, 50), 0.9, None)
    points = [landmark(0.1, 0.2), landmark(0.3, 0.2), landmark(0.2, 0.6)]
    stand_in.answer = types.SimpleNamespace(face_landmarks=[points])
    (mesh,) = Mediapipe(tmp_path / "f.task", task="face-mesh").detect(picture, confidence=0.5)
    assert mesh.box == Box(20, 20, 60, 60)
    assert mesh.mask is not None
    assert mesh.mask.shape == (40, 40)
    assert 0.4 < mesh.mask.mean() < 0.6, "a triangle fills half of its box"
    stand_in.answer = types.SimpleNamespace(hand_landmarks=[points], handedness=[[types.SimpleNamespace(score=0.7)]])
    (hand,) = Mediapipe(tmp_path / "h.task", task="hand").detect(picture, confidence=0.5)
    assert (hand.kind, hand.score) == ("hand", 0.7)
    person = np.zeros((50, 100), np.float32)
    person[10:20, 10:30] = 0.9
    person[30:40, 60:90] = 0.8
    stand_in.answer = types.SimpleNamespace(confidence_masks=[Mask(person)])
    found = Mediapipe(tmp_path / "s.tflite", task="person").detect(picture, confidence=0.5)
    assert [(d.kind, d.box) for d in found] == [("person", Box(20, 20, 60, 40)), ("person", Box(120, 60, 180, 80))]
    assert all(d.mask is not None and d.mask.all() for d in found)


def test_a_bundle_tells_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "hand.task"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("hand_landmarks_detector.tflite", b"x")
    assert task_of(path) == "hand"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("something.tflite", b"x")
    with pytest.raises(MissingError, match="doesn't tell what it finds"):
        task_of(path)


# Geometry


def test_boxes_and_masks_come_back_in_the_pictures_pixels() -> None:
    picture = np.zeros((2000, 4000, 3), np.float32)
    levels, factor = reduced(picture, 1000)
    assert (levels.shape, factor) == ((500, 1000, 3), 4.0)
    assert enlarged(10, 10, 20, 20, factor, Size(4000, 2000)) == Box(40, 40, 80, 80)
    assert enlarged(-5, -5, 2000, 2000, factor, Size(4000, 2000)) == Box(0, 0, 4000, 2000)
    assert enlarged(5, 5, 5, 9, factor, Size(4000, 2000)) is None
    assert enlarged(float("nan"), 0, 1, 1, 1.0, Size(9, 9)) is None
    mask = np.zeros((500, 1000), np.bool_)
    mask[10:20, 10:20] = True
    cut = cut_mask(mask, Box(36, 40, 84, 80), Size(4000, 2000))
    assert cut.shape == (40, 48)
    assert cut[:, 4:44].all()
    assert not cut[:, :4].any()


# The command


def cli(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


def test_models_inspect_tells_task_classes_and_input_size(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, task in (("nano.pt", "detect"), ("nano-seg.pt", "segment"), ("nano.onnx", "detect")):
        code, said = cli(capsys, "models", "inspect", str(weights / file))
        assert code == 0, said
        assert "a detector" in said
        assert f"task        {task}" in said
        assert "person, dog, thing 2" in said
        assert "px" in said
    bad = tmp_path / "bad.pt"
    bad.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    code, said = cli(capsys, "models", "inspect", str(bad))
    assert code == 5
    assert not (tmp_path / "ran").exists()
