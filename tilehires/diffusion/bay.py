"""The only place where weights are loaded, moved and freed."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from tilehires.diffusion import controlnets, loading, prompts
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.controlnets import ControlNetFile
from tilehires.diffusion.lora import Lora
from tilehires.diffusion.syntax import Count
from tilehires.memory import Offload

COURSES = 32  # encoded prompts kept: a batch asks for the same few in every image and pass
VAES = (AutoencoderKL, AutoencoderTiny)
STREAMED = (UNet2DConditionModel, ControlNetModel)  # the rest is small, and is driven in pieces


class Bay:
    """Loaded models by what they were loaded from. One diffusion model, one refiner and one upscaler are kept.

    Weights rest in host memory; `on_device` brings a module to the device for as long as it works ("staged"), or to stay
    ("resident"), or layer by layer as its calls need them ("streamed"). On a CPU nothing moves.
    """

    def __init__(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, offload: Offload = "staged"
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self._offload: Offload = offload
        self._diffusion: tuple[tuple[Checkpoint, str | None], Diffusion] | None = None
        self._refiner: tuple[tuple[Checkpoint, str | None], Diffusion] | None = None
        self._upscaler: tuple[Path, Any] | None = None
        self._courses: OrderedDict[tuple[Any, ...], prompts.Course] = OrderedDict()
        self._controlnets: dict[ControlNetFile, Any] = {}
        self._adapters: Any = None
        self._resident: list[nn.Module] = []
        self._at_work: tuple[nn.Module, ...] = ()
        self._named = ""
        self._restorer: tuple[Path, Any] | None = None

    @property
    def can_offload(self) -> bool:
        """Whether host memory is another one than the device's."""
        return self.device.type == "cuda"

    @property
    def part_at_work(self) -> str:
        """Which part was at work when the latest error came: "UNet", "VAE", "text encoders", "face restoration", what
        `alone` was called with; outside of them the upscaler."""
        if self._named:
            return self._named
        if not self._at_work:
            return "upscaler"
        for name, kinds in (("UNet", STREAMED), ("VAE", VAES)):
            if any(isinstance(module, kinds) for module in self._at_work):
                return name
        return "text encoders"

    @property
    def offload(self) -> Offload:
        """What stays on the device between calls. Set it between stages only: models then leave the device."""
        return self._offload

    @offload.setter
    def offload(self, offload: Offload) -> None:
        if offload != self._offload:
            self._offload = offload
            if self._resident or self._upscaler:
                self.clear_device()

    def diffusion(self, checkpoint: Checkpoint, vae: str | None = None, loras: Sequence[Lora] = ()) -> Diffusion:
        """The model of a checkpoint, with another VAE if named, and with exactly these LoRAs on it.

        Raises MissingError when its weights can't be read, lora.MisfitError (one of those) when a LoRA can't be put on.
        """
        key = (checkpoint, vae)
        if self._diffusion is None or self._diffusion[0] != key:
            self._diffusion = self._adapters = None
            self._courses.clear()
            self.clear_device()
            self._diffusion = (key, loading.load(checkpoint, self.dtype, vae))
        model = self._diffusion[1]
        if loras and self._adapters is None:
            from tilehires.diffusion.adapters import Adapters

            self._adapters = Adapters(model)
        if self._adapters is not None:
            self._adapters.fit(loras)
        return model

    def refiner(self, checkpoint: Checkpoint, vae: str | None = None) -> Diffusion:
        """The model that takes over in a pass, in host memory beside the pass's own. Raises MissingError."""
        if self._refiner is None or self._refiner[0] != (checkpoint, vae):
            self._refiner = None
            self._courses.clear()
            self.clear_device()
            self._refiner = ((checkpoint, vae), loading.load(checkpoint, self.dtype, vae))
        return self._refiner[1]

    def course(
        self, model: Diffusion, prompt: str, negative: str, *, guided: bool, count: Count, encoding: prompts.Encoding
    ) -> prompts.Course:
        """As prompts.course, in host memory. Of the loaded model the latest are remembered: its text encoders then stay
        where they are. What a LoRA or textual inversion has a part in is encoded anew.
        """
        second = self._refiner is not None and model is self._refiner[1]
        own = self._diffusion is not None and model is self._diffusion[1]
        adapted = own and self._adapters is not None and self._adapters.on_text
        lasting = (own or second) and not adapted and not encoding.embeddings
        key = (second, prompt, negative, guided, count, encoding.clip_skip, encoding.emphasis)
        if lasting and key in self._courses:
            self._courses.move_to_end(key)
            return self._courses[key]
        with self.on_device(*model.text_encoders):
            made = prompts.course(
                model, prompt, negative, guided=guided, count=count, encoding=encoding, device=self.device
            )
        made = dataclasses.replace(made, distinct=tuple(_in_host_memory(one) for one in made.distinct))
        if lasting:
            self._courses[key] = made
            while len(self._courses) > COURSES:
                self._courses.popitem(last=False)
        return made

    def controlnets(self, files: Sequence[ControlNetFile]) -> tuple[Any, ...]:
        """The ControlNetModels of one pass, in host memory; those of the pass before are kept only if they are among them.

        Raises MissingError when one can't be read.
        """
        if gone := [model for known, model in self._controlnets.items() if known not in files]:
            self._resident = [one for one in self._resident if all(one is not model for model in gone)]
            self._controlnets = {file: model for file, model in self._controlnets.items() if file in files}
            del gone
            self._collect()
        for file in files:
            if file not in self._controlnets:
                self._controlnets[file] = controlnets.load(file, self.dtype)
        return tuple(self._controlnets[file] for file in files)

    def upscaler(self, path: Path) -> Any:
        """spandrel's descriptor of a model file, on the device. Raises MissingError when the file can't be used."""
        from tilehires.upscalers.loading import fitting_dtype, load

        if self._upscaler and self._upscaler[0] != path:
            self._upscaler = None
            self._collect()
        if self._upscaler is None:
            descriptor = load(path)
            descriptor.to("cpu", fitting_dtype(descriptor, self.dtype))
            self._upscaler = (path, descriptor)
        self._at_work, self._named = (), ""
        descriptor = self._upscaler[1]
        if descriptor.device != self.device:
            descriptor.to(self.device)
        return descriptor

    @contextlib.contextmanager
    def on_device(self, *modules: nn.Module) -> Iterator[None]:
        """The modules are on the device inside, and back in host memory afterwards, also after an error, unless they are
        to stay. A streamed UNet's own parameters have no values inside (they are meta tensors): only its calls do."""
        self._at_work, self._named = modules, ""  # an error leaves it so
        if self._offload == "resident":
            self._resident += [module for module in modules if not any(module is other for other in self._resident)]
            self._move(modules, self.device)
            yield
            self._at_work = ()
            return
        self._put_upscaler_away()
        streamed = [module for module in modules if self._is_streamed(module)]
        placed = [module for module in modules if not any(module is other for other in streamed)]
        try:
            self._move(placed, self.device)
            for module in streamed:
                cpu_offload(module, self.device, offload_buffers=True)
            yield
            self._at_work = ()
        finally:
            for module in streamed:
                remove_hook_from_module(module, recurse=True)
            self._move(placed, torch.device("cpu"))
            self._give_back()

    @contextlib.contextmanager
    def instead(self, module: nn.Module) -> Iterator[None]:
        """Inside an `on_device`: its modules leave the device for as long as `module` works there, unless models are to stay.

        After an error they are where that `on_device` puts them.
        """
        before = self._at_work
        # Streamed weights aren't on the device between calls anyway; on it are the small modules beside them.
        leaving = () if self._offload == "resident" else before
        placed = [one for one in leaving if not self._is_streamed(one)]
        self._move(placed, torch.device("cpu"))
        if placed:
            self._give_back()
        with self.on_device(module):
            yield
        self._at_work = before
        self._move(placed, self.device)

    def put_away(self, modules: Sequence[nn.Module]) -> None:
        """Bring models that stayed on the device to host memory: they aren't asked for again soon."""
        self._resident = [one for one in self._resident if all(one is not module for module in modules)]
        self._move(modules, torch.device("cpu"))

    @contextlib.contextmanager
    def restorer(self, path: Path, device: torch.device | None = None) -> Iterator[Any]:
        """spandrel's descriptor of a face restoration model, on the device (or another `device`) inside only, whatever the
        offload. The latest is kept, in host memory. Raises MissingError when the file can't be used."""
        from tilehires.upscalers.loading import load_restorer

        self._at_work, self._named = (), "face restoration"
        if self._restorer is None or self._restorer[0] != path:
            self._restorer = None
            self._restorer = (path, load_restorer(path))
        descriptor = self._restorer[1]
        try:
            self._move((descriptor.model,), device or self.device)
            yield descriptor
            self._named = ""
        finally:
            self._move((descriptor.model,), torch.device("cpu"))
            self._give_back()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Inside, no model of this bay is on the device: another has it to itself. `name`: for `part_at_work`."""
        self.clear_device()
        self._named = name
        try:
            yield
            self._named = ""
        finally:
            self._collect()

    def clear_device(self) -> None:
        """Bring every model to host memory, and give back what the device's allocator keeps."""
        self._at_work, self._named = (), ""
        self._move(self._resident, torch.device("cpu"))
        self._resident.clear()
        self._put_upscaler_away()
        self._collect()

    def free(self) -> None:
        """Let go of everything."""
        self._diffusion = self._refiner = self._upscaler = self._restorer = self._adapters = None
        self._resident.clear()
        self._courses.clear()
        self._controlnets.clear()
        self._collect()

    def _is_streamed(self, module: nn.Module) -> bool:
        return self._offload == "streamed" and isinstance(module, STREAMED)

    def _put_upscaler_away(self) -> None:
        if self._upscaler and self._upscaler[1].device.type != "cpu":
            self._upscaler[1].to("cpu")

    def _move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        if self.device.type != "cpu":
            for module in modules:
                module.to(device)

    def _give_back(self) -> None:
        """What left the device is free there for others; on a CPU nothing has left, and looking for garbage takes long."""
        if self.device.type != "cpu":
            self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def _in_host_memory(heard: prompts.Conditioning) -> prompts.Conditioning:
    pooled = None if heard.pooled is None else heard.pooled.cpu()
    return dataclasses.replace(heard, embeds=heard.embeds.cpu(), pooled=pooled)
