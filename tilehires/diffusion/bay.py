"""The only place where weights are loaded, moved and freed."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilehires.diffusion import loading
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.components import Diffusion


class Bay:
    """Loaded models by what they were loaded from. One diffusion model and one upscaler are kept at a time.

    Weights rest in host memory; `on_device` brings a module to the device for as long as it works. On a CPU nothing moves.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self._diffusion: tuple[tuple[Checkpoint, str | None], Diffusion] | None = None
        self._upscaler: tuple[Path, Any] | None = None

    def diffusion(self, checkpoint: Checkpoint, vae: str | None = None) -> Diffusion:
        """The model of a checkpoint, with another VAE if named. Raises MissingError when its weights can't be read."""
        key = (checkpoint, vae)
        if self._diffusion is None or self._diffusion[0] != key:
            self._diffusion = None
            self._collect()
            self._diffusion = (key, loading.load(checkpoint, self.dtype, vae))
        return self._diffusion[1]

    def upscaler(self, path: Path) -> Any:
        """spandrel's descriptor of a model file, on the device. Raises MissingError when the file can't be used."""
        from tilehires.upscalers.loading import fitting_dtype, load

        if self._upscaler is None or self._upscaler[0] != path:
            self._upscaler = None
            self._collect()
            descriptor = load(path)
            descriptor.to(self.device, fitting_dtype(descriptor, self.dtype))
            self._upscaler = (path, descriptor)
        return self._upscaler[1]

    @contextlib.contextmanager
    def on_device(self, *modules: nn.Module) -> Iterator[None]:
        """The modules are on the device inside, and back in host memory afterwards, also after an error."""
        if self.device.type == "cpu":
            yield
            return
        try:
            for module in modules:
                module.to(self.device)
            yield
        finally:
            for module in modules:
                module.to("cpu")
            self._collect()

    def free(self) -> None:
        """Let go of everything."""
        self._diffusion = self._upscaler = None
        self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
