"""What an upscaler model takes, found without reading its weights: the planner's figures."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError, canonicalize_state_dict

from tilehires.errors import MissingError
from tilehires.tiling.live import LiveBytes
from tilehires.upscalers.loading import BROKEN, fitting_dtype, registry

SIDE = 64  # of the tile that is measured, in pixels: work memory is in proportion to the area
UNKNOWN = 2
"""Values per input pixel, feature and scale²: none exceeds it of those measured (ESRGAN 2.0, SPAN 0.7, SwinIR 0.9)."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of the weights, and of work memory per input pixel of a tile, in the number format the model will run in."""

    weights: int
    per_pixel: float
    whole: bool
    """Tiling is discouraged for this model, or it tiles by itself."""


@cache
def need(path: Path, dtype: torch.dtype) -> Need:
    """Measure a model file on the meta device: its architecture is built and called without a single number.

    Where an architecture can't be built so (those that look at values), a bound from its shapes stands in, in float32.
    """
    state = _shapes(path)
    numbers = sum(value.numel() for value in state.values())
    try:
        with torch.device("meta"):
            loaded = ModelLoader(device="meta", registry=registry()).load_from_state_dict(dict(state))
            if not isinstance(loaded, ImageModelDescriptor):
                raise TypeError("no model of images")
            loaded.eval()
            image = torch.empty(1, loaded.input_channels, SIDE, SIDE)
            with torch.no_grad(), LiveBytes() as counter:
                loaded(image)
    except (*BROKEN, NotImplementedError, UnsupportedModelError):
        return Need(numbers * 4, _bound(state) * 4, whole=False)
    size = fitting_dtype(loaded, dtype).itemsize
    # The picture goes in and comes out in float32.
    pictures = 4 * 3 * (1 + loaded.scale**2)
    whole = loaded.tiling != ModelTiling.SUPPORTED
    return Need(numbers * size, counter.peak / SIDE**2 * size / 4 + pictures, whole)


def parameters(path: Path) -> int:
    """How many numbers a model file holds."""
    return sum(value.numel() for value in _shapes(path).values())


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file on the meta device. Raises MissingError."""
    try:
        return _read(path)
    except (*BROKEN, pickle.UnpicklingError) as error:
        raise MissingError(
            f"The sizes of {path} can't be read: it is damaged, or holds more than weights.",
            hint="Download it again, as .safetensors where there is one.",
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix.lower() == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: torch.empty(tuple(file.get_slice(name).get_shape()), device="meta") for name in names}
    return _tensors(torch.load(path, map_location="meta", weights_only=True))


def _tensors(loaded: Any) -> dict[str, torch.Tensor]:
    """Of a state dict, perhaps under a name of its own (params_ema, state_dict)."""
    state = canonicalize_state_dict(loaded) if isinstance(loaded, dict) else {}
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _bound(state: dict[str, torch.Tensor]) -> int:
    """Values per input pixel, at a scale of 4: the usual one, and the dearest."""
    features = max((tensor.shape[0] for tensor in state.values() if tensor.ndim == 4), default=64)
    return UNKNOWN * features * 4**2
