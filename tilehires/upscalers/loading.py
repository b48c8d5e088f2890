"""Reading upscaler model files: whole, safely, or not at all."""

from __future__ import annotations

import pickle
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import torch
from spandrel import (
    MAIN_REGISTRY,
    ArchRegistry,
    ImageModelDescriptor,
    ModelLoader,
    UnsupportedModelError,
    canonicalize_state_dict,
)

from tilehires.config.known_models import FACES, UPSCALERS
from tilehires.errors import MissingError

# What damaged or strange files make torch, safetensors and spandrel's detection raise.
BROKEN = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    safetensors.SafetensorError,
    zipfile.BadZipFile,
)
_CHANNELS = ((1, 1), (3, 3), (4, 3), (4, 4))


def load(path: Path) -> ImageModelDescriptor[Any]:
    """Load an upscaler with spandrel, on the CPU, in float32, in evaluation mode.

    Pickles (.pth, .pt, .ckpt) are read by torch's weights-only unpickler, which runs no code from the file;
    TorchScript, which is code, is refused. Raises MissingError (exit 5) for a file that is missing, broken, unsafe, of
    an architecture spandrel doesn't know, or no upscaler.
    """
    model = _load(path, "upscaler", _UPSCALERS)
    if not isinstance(model, ImageModelDescriptor) or model.purpose == "FaceSR":
        raise MissingError(f"{path} is a {model.architecture.name} {model.purpose} model, no upscaler.", hint=_OTHER)
    if (model.input_channels, model.output_channels) not in _CHANNELS:
        channels = f"{model.input_channels} channels into {model.output_channels}"
        raise MissingError(f"{path} turns {channels}; an upscaler keeps grey, RGB or RGBA.", hint=_OTHER)
    return _resting(model)


def load_restorer(path: Path) -> ImageModelDescriptor[Any]:
    """As `load`, for face restoration: GFPGAN and RestoreFormer; CodeFormer where spandrel_extra_arches is installed."""
    model = _load(path, "face restoration model", _RESTORERS)
    if not isinstance(model, ImageModelDescriptor) or model.purpose != "FaceSR":
        raise MissingError(
            f"{path} is a {model.architecture.name} {model.purpose} model, no face restoration model.", hint=_RESTORERS
        )
    return _resting(model)


_UPSCALERS = "Use an upscaler such as ESRGAN, Compact, SwinIR, DAT or HAT; checkpoints and LoRA files are none."
_RESTORERS = (
    "Use GFPGAN or RestoreFormer; for CodeFormer, whose licence forbids commercial use, first: "
    "pip install spandrel_extra_arches."
)


def _resting(model: ImageModelDescriptor[Any]) -> ImageModelDescriptor[Any]:
    model.eval().float()
    model.model.requires_grad_(False)
    return model


def registry() -> ArchRegistry:
    """spandrel's architectures, and the extra ones where that package is installed; spandrel's own list stays as it is."""
    if find_spec("spandrel_extra_arches") is None:
        return MAIN_REGISTRY
    both = MAIN_REGISTRY.copy()
    both.add(*import_module("spandrel_extra_arches").EXTRA_REGISTRY, ignore_duplicates=True)
    return both


def _load(path: Path, what: str, hint: str) -> Any:
    """The model in a file, whatever its purpose. Raises MissingError, which calls it a `what`."""
    if not path.is_file():
        raise MissingError(
            f"The {what}{' model' if what == 'upscaler' else ''} {path} is not there.",
            hint=f"Check the path. {UPSCALERS if what == 'upscaler' else FACES}",
        )
    try:
        state = canonicalize_state_dict(_state_dict(path))
        return ModelLoader(device="cpu", registry=registry()).load_from_state_dict(state)
    except pickle.UnpicklingError as error:
        raise MissingError(
            f"{path} holds more than weights, or is damaged, and is not opened: unpickling it could run code.",
            hint="Get the model as .safetensors.",
        ) from error
    except UnsupportedModelError as error:
        raise MissingError(f"{path} is no {what} of an architecture that spandrel knows.", hint=hint) from error
    except BROKEN as error:
        raise MissingError(
            f"{path} doesn't load as {'an' if what == 'upscaler' else 'a'} {what}: {_first_line(error)}",
            hint="Download it again, or use another model.",
        ) from error


_OTHER = "Choose another model, or a kernel such as Lanczos."


def fitting_dtype(model: ImageModelDescriptor[Any], wanted: torch.dtype) -> torch.dtype:
    """`wanted` if the model supports it, else the other half format if it is a half, else float32."""
    supported = {torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}
    if supported.get(wanted, True):
        return wanted
    return torch.bfloat16 if wanted == torch.float16 and model.supports_bfloat16 else torch.float32


def _state_dict(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if _is_torchscript(path):
        raise pickle.UnpicklingError("a TorchScript archive")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, no table of weights")
    return loaded


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
