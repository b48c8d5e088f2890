"""Face restoration: GFPGAN, RestoreFormer and CodeFormer, as spandrel loads them, put on each face that is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor

from tilehires.errors import ImageError
from tilehires.geometry import Box, Size
from tilehires.upscalers.faces import FaceFinder, frontal_faces
from tilehires.upscalers.loading import load_restorer
from tilehires.upscalers.pillow import resample

Pixels = NDArray[np.float32]
SIDE = 512
"""These models were trained on faces of 512², a head filling most of it (FFHQ's framing)."""
_RAW = ("GFPGAN", "CodeFormer")
"""Trained on [-1, 1], which spandrel's descriptors of them hand through unchanged, though they promise [0, 1]."""
_FRAME = 0.45  # of the face's box on each side of it: forehead to chin becomes the whole head
_FEATHER = 0.12  # of the frame's side


class FaceRestorer:
    """One model file. Faces are cut out with their surroundings, restored at 512², and put back with a soft border."""

    def __init__(self, path: Path, *, device: torch.device | str = "cpu", find: FaceFinder = frontal_faces) -> None:
        """Loads the weights. Raises MissingError for a file that is missing, broken, unsafe or no face restorer."""
        self.path = path
        self._find = find
        self._model = load_restorer(path)
        self._model.to(torch.device(device))

    def restore(self, image: Pixels, visibility: float = 1.0) -> tuple[Pixels, tuple[Box, ...]]:
        """(the image with its faces restored, their boxes). `image` is float32 H×W×3 in [0, 1] and isn't changed.

        `visibility` 0–1 mixes the restored face in, as Image.blend does. Where no face is found the image comes back.
        """
        faces = self._find(image)
        return put_on(self._model, image, faces, visibility), faces


def put_on(model: ImageModelDescriptor[Any], image: Pixels, faces: Sequence[Box], visibility: float = 1.0) -> Pixels:
    """`image` with the `faces` in it restored by a model that load_restorer gave; see FaceRestorer.restore."""
    if not faces or visibility == 0:
        return image
    result = image.copy()
    for face in faces:
        box = framed(face, Size(image.shape[1], image.shape[0]))
        piece = np.ascontiguousarray(image[box.slices])
        made = resample(_run(model, resample(piece, Size(SIDE, SIDE))), box.size)
        weight = (feather(box.size) * np.float32(visibility))[..., None]
        under = result[box.slices]
        result[box.slices] = under + (np.clip(made, 0.0, 1.0) - under) * weight
    return result


def framed(face: Box, image: Size) -> Box:
    """The square around a face that the model gets, moved to lie inside the image where it fits, else cut off."""
    side = min(round(max(face.width, face.height) * (1 + 2 * _FRAME)), image.width, image.height)
    x = (face.x0 + face.x1 - side) // 2
    y = (face.y0 + face.y1 - side) // 2
    x, y = min(max(x, 0), image.width - side), min(max(y, 0), image.height - side)
    return Box(x, y, x + side, y + side)


def feather(size: Size) -> NDArray[np.float32]:
    """Weights H×W in [0, 1]: 1 inside, falling to 0 at the border as a raised cosine."""

    def ramp(length: int) -> NDArray[np.float32]:
        near = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5) / max(1.0, length * _FEATHER)
        return (0.5 - 0.5 * np.cos(np.pi * np.clip(near, 0.0, 1.0))).astype(np.float32)

    return np.multiply.outer(ramp(size.height), ramp(size.width))


def _run(model: ImageModelDescriptor[Any], face: Pixels) -> Pixels:
    """512² through the model. GFPGAN draws noise as it goes: from a fixed seed, or no two runs would be equal."""
    planes = torch.from_numpy(np.ascontiguousarray(face.transpose(2, 0, 1)))[None].to(model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(0)
        planes = planes.clamp(0, 1)
        if model.architecture.id in _RAW:
            answer = model.model(planes * 2 - 1)[0].float().cpu() / 2 + 0.5
        else:
            answer = model(planes).float().cpu()
    if not torch.isfinite(answer).all():
        raise ImageError("The face model gave values that are not finite.", hint="Choose another one.")
    return np.ascontiguousarray(answer[0].numpy().transpose(1, 2, 0))
