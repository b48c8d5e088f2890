"""Where a sampling pass stands between two model calls: kept in a file, so that a killed pass goes on inside itself.

The state is all that the rest of a pass depends on: the latents, the scheduler's history, how many calls are done. Noise
is not in it: each step's has a seed of its own (noise.CanvasNoise). A file is read only by the very pass that wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilehires.errors import Interrupted
from tilehires.files import atomic

FORMAT = 1
NEVER = -1
# What each scheduler of diffusers carries from one step to the next, read in its source: the rest follows from its
# config and the step. One that isn't here can't go on inside a pass (a Brownian tree, for instance): the pass restarts.
HISTORY: Mapping[str, tuple[str, ...]] = {
    "DPMSolverMultistepScheduler": ("_step_index", "model_outputs", "lower_order_nums"),
    "DPMSolverSinglestepScheduler": ("_step_index", "model_outputs", "sample"),
    "EulerDiscreteScheduler": ("_step_index",),
    "EulerAncestralDiscreteScheduler": ("_step_index",),
    "HeunDiscreteScheduler": ("_step_index", "prev_derivative", "dt", "sample"),
    "LMSDiscreteScheduler": ("_step_index", "derivatives"),
    "KDPM2DiscreteScheduler": ("_step_index", "sample"),
    "KDPM2AncestralDiscreteScheduler": ("_step_index", "sample", "dt"),
    "DDIMScheduler": (),
    "PNDMScheduler": ("counter", "cur_model_output", "cur_sample", "ets"),
    "UniPCMultistepScheduler": (
        "_step_index",
        *("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order"),
    ),
    "DEISMultistepScheduler": ("_step_index", "model_outputs", "lower_order_nums"),
    "DDPMScheduler": (),
    "LCMScheduler": ("_step_index",),
    "TCDScheduler": ("_step_index",),
}


@dataclass(frozen=True)
class State:
    """A pass after `done` model calls: latents B×C×h×w, float32, and the scheduler's history by attribute."""

    done: int
    latents: torch.Tensor
    history: Mapping[str, Any]


def can_resume(scheduler: Any) -> bool:
    """Whether a pass of that scheduler can go on from a State."""
    return type(scheduler).__name__ in HISTORY


def state_of(done: int, latents: torch.Tensor, scheduler: Any) -> State:
    """The state now. Holds the tensors themselves: schedulers replace theirs, and change none in place."""
    names = HISTORY[type(scheduler).__name__]
    values = {name: getattr(scheduler, name) for name in names if hasattr(scheduler, name)}
    return State(done, latents, {name: list(v) if isinstance(v, list) else v for name, v in values.items()})


def restore(state: State, scheduler: Any, device: torch.device) -> torch.Tensor:
    """Give a fresh scheduler, its timesteps set, the history it had; returns the latents. Both on `device`."""
    for name, value in state.history.items():
        setattr(scheduler, name, _mapped(value, lambda tensor: tensor.to(device)))
    return state.latents.to(device)


class StepFile:
    """The state of the pass at work, in one file, written at most every `every` seconds: 0 is always, NEVER never.

    `plan` names all that shapes the stage beside what `sample` knows itself: its fingerprint and the numeric environment.
    """

    def __init__(self, path: Path, plan: str, every: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._plan, self._every, self._clock = path, plan, every, clock
        self._written = clock()
        self._last: tuple[str, State] | None = None

    def load(self, sampling: str) -> State | None:
        """The state that this very pass left; None when there is none, or it is another's, or damaged."""
        if self._every == NEVER or not self._path.is_file():
            return None
        return _read(self._path, self._key(sampling))

    def reached(self, sampling: str, state: State) -> None:
        """A step's boundary. Raises RunError when the disk is full."""
        self._last = sampling, state
        if self._every != NEVER and self._clock() - self._written >= self._every:
            self._write()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Around a pass: one that the user stops is kept as it stood."""
        self._last, self._written = None, self._clock()
        try:
            yield
        except (KeyboardInterrupt, Interrupted):
            if self._every != NEVER and self._last is not None:
                self._write()
            raise
        finally:
            self._last = None

    def _write(self) -> None:
        if self._last is None:
            return
        sampling, state = self._last
        with atomic(self._path) as stream:
            stream.write(_packed(state, self._key(sampling)))
        self._written = self._clock()

    def _key(self, sampling: str) -> str:
        return hashlib.sha256(f"{FORMAT}/{self._plan}/{sampling}".encode()).hexdigest()


def _packed(state: State, key: str) -> bytes:
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}

    def named(tensor: torch.Tensor) -> dict[str, str]:
        name = str(len(tensors))
        tensors[name] = tensor.detach().cpu().contiguous().clone()
        return {"tensor": name}

    body = {
        "key": key,
        "done": state.done,
        "latents": named(state.latents),
        "history": {name: _mapped(value, named) for name, value in state.history.items()},
    }
    return save(tensors, {"state": json.dumps(body), "crc32": str(_checksum(tensors))})


def _read(path: Path, key: str) -> State | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            body = json.loads(metadata["state"])
            if body["key"] != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if str(_checksum(tensors)) != metadata["crc32"]:
            return None
        history = {name: _found(value, tensors) for name, value in body["history"].items()}
        return State(body["done"], tensors[body["latents"]["tensor"]], history)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None  # damaged: the pass begins anew, which costs time and changes nothing


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value


def _found(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]]
    return [_found(item, tensors) for item in value] if isinstance(value, list) else value
