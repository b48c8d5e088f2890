"""Convolutions on a ring: what lies beyond one edge is what lies at the other, so that the picture tiles a wall seamlessly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from diffusers.models.downsampling import Downsample2D
from torch import nn

from tilehires.geometry import Wrap


@contextlib.contextmanager
def circular(wrap: Wrap, *modules: nn.Module) -> Iterator[None]:
    """While open, the convolutions of `modules` pad circularly along the axes of `wrap`, with zeros along the others.

    Attention and norms know no edges: the networks then commute with rolling a canvas by whole strides. On leaving, also by
    an exception, the modules are as they were. Raises ValueError for a convolution with padding of another kind.
    """
    if not (wrap.x or wrap.y):
        yield
        return
    with contextlib.ExitStack() as stack:
        for module in modules:
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d) and layer.padding not in (0, (0, 0)):
                    stack.enter_context(_ringed(layer, wrap))
                elif isinstance(layer, Downsample2D) and layer.use_conv and layer.padding == 0:
                    stack.enter_context(_downsampling(layer, wrap))
        yield


def pad(x: torch.Tensor, wrap: Wrap, sides: tuple[int, int, int, int]) -> torch.Tensor:
    """…×H×W with (left, right, top, bottom) more cells: from the opposite edge along the axes of `wrap`, else zeros."""
    left, right, top, bottom = sides
    if wrap.x and (left or right):
        x = F.pad(x, (left, right, 0, 0), mode="circular")
        left = right = 0
    if wrap.y and (top or bottom):
        x = F.pad(x, (0, 0, top, bottom), mode="circular")
        top = bottom = 0
    return F.pad(x, (left, right, top, bottom)) if any((left, right, top, bottom)) else x


@contextlib.contextmanager
def _ringed(conv: nn.Conv2d, wrap: Wrap) -> Iterator[None]:
    """The convolution's own padding, done around the ring before it."""
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise ValueError(f"a convolution with padding {conv.padding!r}, {conv.padding_mode} can't be made circular")
    before = conv.padding
    vertical, horizontal = before[0], before[1]
    conv.padding = (0 if wrap.y else vertical, 0 if wrap.x else horizontal)
    try:
        x, y = (horizontal if wrap.x else 0), (vertical if wrap.y else 0)
        with _padded(conv, wrap, (x, x, y, y)):
            yield
    finally:
        conv.padding = before


@contextlib.contextmanager
def _downsampling(module: Downsample2D, wrap: Wrap) -> Iterator[None]:
    """With padding 0 its forward adds a column and a row of zeros at the far edges; with any other it leaves that to the
    convolution."""
    module.padding = 1
    try:
        with _padded(module.conv, wrap, (0, 1, 0, 1)):
            yield
    finally:
        module.padding = 0


@contextlib.contextmanager
def _padded(conv: nn.Module, wrap: Wrap, sides: tuple[int, int, int, int]) -> Iterator[None]:
    def around(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (pad(given[0], wrap, sides), *given[1:])

    handle = conv.register_forward_pre_hook(around)
    try:
        yield
    finally:
        handle.remove()
