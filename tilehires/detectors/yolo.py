"""YOLO files: `.pt` through ultralytics, `.onnx` through onnxruntime under it. The only module that imports ultralytics.

ultralytics is AGPL-3.0, and by default loading a `.pt` runs whatever code the file holds, installs packages, asks the
network for missing files and writes settings into the home folder. All of that is switched off before it is imported,
and that it really is off is checked, not believed.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tilehires.detectors.picture import cut_mask, enlarged, reduced
from tilehires.detectors.protocol import Detection, Pixels
from tilehires.errors import MissingError
from tilehires.geometry import Size

LONGEST = 1024  # at native size large faces are lost: the networks were trained at 640
MOST = 300
QUIET = {
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
}
# What damaged or foreign files make torch, onnxruntime and ultralytics raise.
_BROKEN = (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, ImportError)


class Yolo:
    """See `Detector`. `classes`: the kinds to look for, empty for all that the model knows."""

    def __init__(self, path: Path, *, classes: tuple[str, ...] = (), device: str = "cpu") -> None:
        self.name = path.name
        self.files = (path,)
        self._classes, self._device = classes, device
        self._model: Any = None

    def detect(self, pixels: Pixels, *, confidence: float) -> tuple[Detection, ...]:
        model = self._loaded()
        levels, factor = reduced(pixels, LONGEST)
        size = Size(pixels.shape[1], pixels.shape[0])
        answer = model.predict(
            np.ascontiguousarray(levels[..., ::-1]),  # it expects BGR
            conf=max(confidence, 1e-6),
            imgsz=_side(levels, model),
            classes=_numbers(model.names, self._classes, self.files[0]),
            max_det=MOST,
            device=self._device,
            retina_masks=True,  # else masks keep the letterbox's stretch
            verbose=False,
            save=False,
        )[0]
        found = []
        for i, (x0, y0, x1, y1) in enumerate(answer.boxes.xyxy.cpu().tolist()):
            box = enlarged(x0, y0, x1, y1, factor, size)
            if box is None:
                continue
            mask = None if answer.masks is None else answer.masks.data[i].cpu().numpy() > 0.5
            found.append(
                Detection(
                    str(model.names[int(answer.boxes.cls[i])]),
                    box,
                    round(float(answer.boxes.conf[i]), 4),
                    None if mask is None else cut_mask(mask, box, size),
                )
            )
        return tuple(sorted(found, key=lambda d: (-d.score, d.box.y0, d.box.x0)))

    def close(self) -> None:
        self._model = None

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load(self.files[0])
            if self._classes:
                _numbers(self._model.names, self._classes, self.files[0])
        return self._model


def load(path: Path) -> Any:
    """ultralytics' model of a `.pt` or `.onnx` file, on the CPU. No code of the file is run.

    Raises MissingError when it isn't there, is damaged, holds more than a YOLO model, or needs what isn't installed.
    """
    if not path.is_file():  # ultralytics would go and look for it on the network
        raise MissingError(f"The detector {path} is not there.", hint="Check `weights` in its TOML, or the path.")
    onnx = path.suffix.lower() == ".onnx"
    if onnx:
        _require_onnxruntime(path)
    library = _ultralytics()
    try:
        model = library.YOLO(str(path.resolve()), task=_onnx_task(path) if onnx else None)
        _ = model.names  # for .onnx this is where the file is opened
    except _BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingError(
            f"{path} doesn't load as a YOLO detector: {first[:200]}",
            hint="Use a detection or segmentation model of ultralytics, downloaded anew. Files with code are refused.",
        ) from error
    if model.task not in ("detect", "segment"):
        raise MissingError(
            f"{path} is a YOLO model for {model.task}, not for detection.", hint="Use a -detect or -seg model."
        )
    return model


def describe(path: Path) -> dict[str, str]:
    """Task, classes and input size of a file, for `tilehires models inspect`. Raises MissingError as `load`."""
    model = load(path)
    names = [str(name) for name in model.names.values()]
    shown = ", ".join(names[:12]) + (f" … ({len(names)} classes)" if len(names) > 12 else "")
    return {"task": str(model.task), "classes": shown, "input size": f"{_input_size(model)} px"}


@cache
def _ultralytics() -> Any:
    """ultralytics, imported with everything off that this module's docstring names."""
    os.environ.update(QUIET)
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="tilehires-yolo-"))
    # It puts an Image.open of its own in Pillow, which asks pip for a HEIF decoder at the first damaged file anyone opens.
    pillows = Image.open
    try:
        import ultralytics
        from ultralytics import utils
        from ultralytics.nn import tasks
    except ImportError as error:
        raise MissingError(
            f"YOLO detectors need ultralytics, which doesn't import: {error}.", hint="pip install -U ultralytics torch"
        ) from error
    Image.open = pillows
    # On an older torch or ultralytics, or when somebody imported it before us, safe loading silently isn't there.
    guard = getattr(tasks, "_SafeLoad", None)
    if not getattr(utils, "SAFE_LOAD", False) or not getattr(guard, "SUPPORTED", False):
        raise MissingError(
            "This ultralytics can't load files safely, and a .pt could run code.",
            hint="pip install -U 'ultralytics>=8.4.67' 'torch>=2.6', and set ULTRALYTICS_SAFE_LOAD=1 if you import it.",
        )
    utils.SETTINGS["sync"] = False
    return ultralytics


def _require_onnxruntime(path: Path) -> None:
    try:
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingError(f"{path} needs onnxruntime.", hint="pip install 'tilehires[onnx]'") from error


def _onnx_task(path: Path) -> str:
    """What ultralytics' export noted in the file, "detect" where nothing is."""
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore

    # onnxruntime's own exceptions share no base but Exception.
    errors = tuple(one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map.get("task", "detect")
    except (*errors, *_BROKEN) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingError(f"{path} is no ONNX model: {first[:200]}", hint="Export or download it again.") from error


def _numbers(names: Any, classes: tuple[str, ...], path: Path) -> list[int] | None:
    """The model's numbers of the classes asked for; None for all. Raises MissingError for one it doesn't know."""
    if not classes:
        return None
    known = {str(name).lower(): number for number, name in names.items()}
    for one in classes:
        if one.lower() not in known:
            raise MissingError(
                f"{path} knows no class {one!r}.", hint=f"It knows: {', '.join(map(str, list(names.values())[:40]))}."
            )
    return sorted(known[one.lower()] for one in classes)


def _input_size(model: Any) -> int:
    size = (getattr(model, "overrides", None) or {}).get("imgsz") or 640
    return int(max(size) if isinstance(size, list | tuple) else size)


def _side(levels: np.ndarray, model: Any) -> int:
    """The longer side that the network sees: the picture's, between its training size and LONGEST, in strides of 32.

    An exported file has one size that can't be changed.
    """
    if isinstance(model.model, str):
        return _exported_side(model)
    return max(min(_input_size(model), LONGEST), -(-min(max(levels.shape[:2]), LONGEST) // 32) * 32)


def _exported_side(model: Any) -> int:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(model.model, providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[-1]
    return side if isinstance(side, int) else 640
