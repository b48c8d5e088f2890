"""The device of a name, and whether it is there."""

from __future__ import annotations

import torch

from tilehires.errors import ConfigError, MissingError


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one. Raises MissingError for one that isn't there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device.", hint="Choose auto, cpu, cuda, cuda:N or mps.") from error
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(device.type) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise MissingError(f"There is no device {name} here.", hint="Leave --device away, or see `tilehires doctor`.")
    return device
