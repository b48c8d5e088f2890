"""mediapipe's model files (`.task`, `.tflite`) through its Tasks API: faces, face meshes, hands, people."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tilehires.detectors.picture import cut_mask, enlarged, reduced
from tilehires.detectors.protocol import TASKS, Detection, Pixels
from tilehires.errors import MissingError
from tilehires.geometry import Box, Size

LONGEST = 1024
MOST = 100
# What a bundle holds tells what it is for.
_INSIDE = {"face_landmarks_detector.tflite": "face-mesh", "hand_landmarks_detector.tflite": "hand"}
_BROKEN = (OSError, RuntimeError, ValueError, TypeError)


class Mediapipe:
    """See `Detector`. `task`: one of TASKS, "" to read it from a `.task` bundle. Meshes and people come with masks."""

    def __init__(self, path: Path, *, task: str = "") -> None:
        self.name = path.name
        self.files = (path,)
        self._task = task
        self._model: Any = None
        self._confidence = 0.0

    def detect(self, pixels: Pixels, *, confidence: float) -> tuple[Detection, ...]:
        levels, factor = reduced(pixels, LONGEST)
        size = Size(pixels.shape[1], pixels.shape[0])
        library = _library()
        task = self._task or task_of(self.files[0])
        if self._model is None or self._confidence != confidence:
            self.close()
            self._model, self._confidence = _made(library, task, self.files[0], confidence), confidence
        image = library.Image(image_format=library.ImageFormat.SRGB, data=np.ascontiguousarray(levels))
        read: Callable[..., list[Detection]] = {"face": _boxes, "person": _people}.get(task, _landmarks)
        answer = self._model.segment(image) if task == "person" else self._model.detect(image)
        found = read(answer, task, Size(levels.shape[1], levels.shape[0]), factor, size)
        kept = [d for d in found if d.score >= confidence]
        return tuple(sorted(kept, key=lambda d: (-d.score, d.box.y0, d.box.x0)))

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        self._model = None


def task_of(path: Path) -> str:
    """What a file is for. Raises MissingError for one that isn't there, or doesn't tell: then the TOML must."""
    if not path.is_file():
        raise MissingError(f"The detector {path} is not there.", hint="Check `weights` in its TOML, or the path.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as bundle:
            names = {Path(name).name for name in bundle.namelist()}
        for inside, task in _INSIDE.items():
            if inside in names:
                return task
    raise MissingError(
        f"{path} doesn't tell what it finds.",
        hint=f'Name it in the detector\'s TOML: task = "{TASKS[0]}" ({", ".join(TASKS)}).',
    )


def _library() -> Any:
    try:
        import mediapipe  # pyright: ignore[reportMissingImports]
        from mediapipe.tasks.python import vision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingError("This detector needs mediapipe.", hint="pip install 'tilehires[mediapipe]'") from error
    return mediapipe


def _made(library: Any, task: str, path: Path, confidence: float) -> Any:
    """A task's runner. Raises MissingError for a file that is missing, damaged, or of another task."""
    if not path.is_file():
        raise MissingError(f"The detector {path} is not there.", hint="Check `weights` in its TOML, or the path.")
    vision, base = library.tasks.vision, library.tasks.BaseOptions(model_asset_path=str(path))
    try:
        if task == "face":
            options = vision.FaceDetectorOptions(base_options=base, min_detection_confidence=confidence)
            return vision.FaceDetector.create_from_options(options)
        if task == "face-mesh":
            options = vision.FaceLandmarkerOptions(
                base_options=base, num_faces=MOST, min_face_detection_confidence=confidence
            )
            return vision.FaceLandmarker.create_from_options(options)
        if task == "hand":
            options = vision.HandLandmarkerOptions(
                base_options=base, num_hands=MOST, min_hand_detection_confidence=confidence
            )
            return vision.HandLandmarker.create_from_options(options)
        options = vision.ImageSegmenterOptions(base_options=base, output_confidence_masks=True)
        return vision.ImageSegmenter.create_from_options(options)
    except _BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingError(
            f"{path} doesn't load as a mediapipe model for {task}: {first[:200]}",
            hint="Download it again, or correct `task` in the detector's TOML.",
        ) from error


def _boxes(answer: Any, task: str, seen: Size, factor: float, size: Size) -> list[Detection]:
    found = []
    for one in answer.detections:
        b = one.bounding_box
        box = enlarged(b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height, factor, size)
        if box is not None:
            found.append(Detection("face", box, round(float(one.categories[0].score), 4)))
    return found


def _landmarks(answer: Any, task: str, seen: Size, factor: float, size: Size) -> list[Detection]:
    """Hands and face meshes: points in shares of the picture. A mesh's convex hull is its mask."""
    hands = task == "hand"
    found = []
    for i, points in enumerate(answer.hand_landmarks if hands else answer.face_landmarks):
        at = np.array([(p.x * seen.width, p.y * seen.height) for p in points], np.float32)
        (x0, y0), (x1, y1) = at.min(axis=0), at.max(axis=0)
        box = enlarged(float(x0), float(y0), float(x1), float(y1), factor, size)
        if box is None:
            continue
        score = float(answer.handedness[i][0].score) if hands else 1.0
        found.append(
            Detection("hand" if hands else "face", box, round(score, 4), None if hands else _hull(at * factor, box))
        )
    return found


def _hull(points: np.ndarray, box: Box) -> np.ndarray:
    mask = np.zeros((box.height, box.width), np.uint8)
    hull = cv2.convexHull((points - (box.x0, box.y0)).round().astype(np.int32))
    return cv2.fillConvexPoly(mask, hull, 1).astype(bool)


def _people(answer: Any, task: str, seen: Size, factor: float, size: Size) -> list[Detection]:
    """A segmentation of people: every connected part of it is one."""
    # A selfie model has one mask, of the person; others begin with the background's.
    masks = [np.asarray(mask.numpy_view()).squeeze() for mask in answer.confidence_masks]
    person = masks[0] if len(masks) == 1 else 1.0 - masks[0]
    _, parts, stats, _ = cv2.connectedComponentsWithStats((person > 0.5).astype(np.uint8))
    scale = seen.width / person.shape[1], seen.height / person.shape[0]
    found = []
    for number in range(1, len(stats)):
        x, y, width, height = (int(v) for v in stats[number][:4])
        part = parts == number
        corners = (x * scale[0], y * scale[1], (x + width) * scale[0], (y + height) * scale[1])
        box = enlarged(*corners, factor, size)
        if box is not None:
            found.append(Detection("person", box, round(float(person[part].mean()), 4), cut_mask(part, box, size)))
    return found
