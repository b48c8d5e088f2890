"""How much memory a model's call takes: the bytes that tensors hold while they live."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While open, counts the bytes of storages that tensors made inside hold on `device` (any when None).

    `peak` is the most at any moment. Works on real, meta and fake tensors; what kernels take inside of them (a
    convolution's workspace) isn't seen.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._device = device
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and self._device in (None, tensor.device.type):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if not self._users[key]:
                    self.live += size
                    self.peak = max(self.peak, self.live)
                self._users[key] += 1
                weakref.finalize(tensor, self._freed, key, size)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            self.live -= size
