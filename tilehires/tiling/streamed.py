"""An exact AutoencoderKL in bounded device memory: its layers run strip by strip, its own code stays as it is.

Activations wait on the CPU; each layer brings strips of rows to the device: convolutions with their halo, GroupNorm in
two passes (statistics over the whole canvas, then the affine map, fused with the activation and the convolution after
it), attention in chunks of queries. On the device are a few strips at a time, and in the one attention layer the keys
and values of all latent cells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from tilehires.geometry import OPEN, Box, Wrap
from tilehires.tiling import circular

STRIP_BYTES = 64 * 1024**2

Prepare = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Shared:
    """What the layers that see a whole canvas know of it: GroupNorm's affine map, the keys and values of attention.

    Filled by the first call, whose input is a batch of regions of `cells` rows each: entry i counts inside `cores[i]`
    (in latent cells) only, so that the zeros around a region tell nothing. Every later call uses what is held.
    """

    cores: Sequence[Box]
    cells: int
    norms: dict[nn.GroupNorm, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    keys: dict[Attention, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The cores of a batch of regions at any level of the network, each as a batch of one."""
        scale = x.shape[-2] // self.cells
        return [x[i : i + 1, :, *core.scale(scale).slices] for i, core in enumerate(self.cores)]


@contextlib.contextmanager
def streamed(
    vae: AutoencoderKL, strip_bytes: int = STRIP_BYTES, shared: Shared | None = None, wrap: Wrap = OPEN
) -> Iterator[AutoencoderKL]:
    """While open, `vae` takes and returns CPU tensors and works in strips of about `strip_bytes` on its own device.

    `shared`: what the layers know of the canvas that their input is a part of; None: the input is the whole of it.
    `wrap`: the axes along which the input is a ring. No gradients. On leaving, also by an exception, the module is as it was.
    """
    strips = _Strips(next(vae.parameters()).device, strip_bytes, shared, wrap)
    forwards: dict[type, Callable[..., torch.Tensor]] = {
        ResnetBlock2D: strips.resnet,
        Upsample2D: strips.upsample,
        Downsample2D: strips.downsample,
        Attention: strips.attention,
        nn.GroupNorm: strips.norm,
        nn.Conv2d: strips.conv,
        nn.SiLU: strips.pointwise,
    }
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for module in vae.modules():
            if forward := forwards.get(type(module)):
                replaced.append((module, module.__dict__.get("forward")))
                module.forward = MethodType(_bound(forward), module)
        with torch.no_grad():
            yield vae
    finally:
        for module, forward in replaced:
            # An offload hook may have put its own forward on the instance; otherwise the class has it.
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _bound(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """VAEs pass an absent time embedding, None, to some layers: by place or by name."""

    def call(module: nn.Module, x: torch.Tensor, temb: None = None) -> torch.Tensor:
        if temb is not None:
            raise ValueError(f"a VAE's {type(module).__name__} with a time embedding can't be streamed")
        return forward(module, x)

    return call


@dataclass(frozen=True)
class _Strips:
    """The layers, each over N×C×H×W activations on the CPU. Some write into their input: nothing else holds it."""

    device: torch.device
    bytes: int
    shared: Shared | None = None
    wrap: Wrap = OPEN

    def rows(self, height: int, row_values: int, stored: torch.dtype) -> Iterator[tuple[int, int]]:
        step = max(1, self.bytes // (row_values * stored.itemsize))
        return ((a, min(a + step, height)) for a in range(0, height, step))

    def conv(self, module: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if isinstance(module.padding, str) or module.padding_mode != "zeros":
            raise ValueError(f"a convolution with padding {module.padding!r}, {module.padding_mode} can't be streamed")
        vertical, horizontal = module.padding
        return self._convolve(module, x, (horizontal, horizontal, vertical, vertical))

    def resnet(self, block: ResnetBlock2D, x: torch.Tensor) -> torch.Tensor:
        if block.upsample is not None or block.downsample is not None or block.time_embedding_norm == "scale_shift":
            raise ValueError("a residual block that resizes or takes a time embedding can't be streamed")
        act = block.nonlinearity.__class__.forward  # its own instance's forward is the strip-wise one

        def normed(norm: nn.GroupNorm, over: torch.Tensor) -> Prepare:
            affine = self._affine(norm, over)
            return lambda strip: act(block.nonlinearity, affine(strip))

        around = (1, 1, 1, 1)
        hidden = self._convolve(block.conv1, x, around, prepare=normed(block.norm1, x))
        prepare = normed(block.norm2, hidden)

        beside = x if block.conv_shortcut is None else self._shortcut(block.conv_shortcut, x)

        def join(strip: torch.Tensor, a: int, b: int) -> torch.Tensor:
            return (beside[:, :, a:b].to(self.device) + strip) / block.output_scale_factor

        # Its rows are read once more, just before the same rows are written: its memory holds the answer.
        return self._convolve(block.conv2, hidden, around, prepare=prepare, after=join, out=beside)

    def _shortcut(self, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """A 1×1 convolution, in the memory of `x` where that has channels enough."""
        n, channels, height, width = x.shape
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
            raise ValueError("a residual block with another shortcut than a 1×1 convolution can't be streamed")
        made = conv.out_channels
        out = x[:, :made] if made <= channels else torch.empty(n, made, height, width, dtype=x.dtype)
        for a, b in self.rows(height, n * max(channels, made) * width, x.dtype):
            out[:, :, a:b] = F.conv2d(x[:, :, a:b].to(self.device), conv.weight, conv.bias).to(out.device)
        return out

    def upsample(self, module: Upsample2D, x: torch.Tensor) -> torch.Tensor:
        conv = module.conv if module.name == "conv" else module.Conv2d_0
        if module.norm is not None or not isinstance(conv, nn.Conv2d) or not module.interpolate:
            raise ValueError("an upsampler of another kind than nearest and convolution can't be streamed")
        return self._convolve(conv, x, (1, 1, 1, 1), enlarge=2)

    def downsample(self, module: Downsample2D, x: torch.Tensor) -> torch.Tensor:
        if module.norm is not None or not isinstance(module.conv, nn.Conv2d):
            raise ValueError("a downsampler of another kind than a convolution can't be streamed")
        p = module.padding
        return self._convolve(module.conv, x, (p, p, p, p) if p else (0, 1, 0, 1))

    def norm(self, module: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        return self._in_place(x, self._affine(module, x))

    def pointwise(self, module: nn.SiLU, x: torch.Tensor) -> torch.Tensor:
        return self._in_place(x, F.silu)

    def attention(self, module: Attention, x: torch.Tensor) -> torch.Tensor:
        if module.spatial_norm or not module.group_norm or module.norm_q or module.norm_k:
            raise ValueError("attention with other norms than one GroupNorm can't be streamed")
        if not module.to_out:
            raise ValueError("attention without projections of its own can't be streamed")
        n, channels, height, width = x.shape
        affine, heads = self._affine(module.group_norm, x), module.heads
        key, value = (keys.expand(n, -1, -1, -1) for keys in self._keys(module, x, affine))
        # A row of scores is as long as the canvas has cells, and some kernels hold it in float32.
        step = max(1, 4 * self.bytes // (4 * n * heads * key.shape[2]) // width)
        for a in range(0, height, step):
            rows = x[:, :, a : a + step].to(self.device)
            query = _split_heads(module.to_q(affine(rows).flatten(2).transpose(1, 2)), heads)
            answer = F.scaled_dot_product_attention(query, key, value)
            answer = module.to_out[0](answer.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(rows.shape)
            answer = answer + rows if module.residual_connection else answer
            x[:, :, a : a + step] = (answer / module.rescale_output_factor).to(x.device)
        return x

    def _keys(self, module: Attention, x: torch.Tensor, affine: Prepare) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all cells that count, on the device."""
        if self.shared and module in self.shared.keys:
            return self.shared.keys[module]
        parts = self.shared.parts(x) if self.shared else [x]
        if module.to_k is None or module.to_v is None:
            raise ValueError("attention without projections of its own can't be streamed")
        key, value = (
            torch.cat([self._project(projection, part, affine, module.heads) for part in parts], 2)
            for projection in (module.to_k, module.to_v)
        )
        if self.shared:
            self.shared.keys[module] = key, value
        return key, value

    def _project(self, projection: nn.Module, x: torch.Tensor, affine: Prepare, heads: int) -> torch.Tensor:
        n, channels, height, width = x.shape
        strips = [
            projection(affine(x[:, :, a:b].to(self.device)).flatten(2).transpose(1, 2))
            for a, b in self.rows(height, n * channels * width, x.dtype)
        ]
        return _split_heads(torch.cat(strips, 1), heads)

    def _affine(self, norm: nn.GroupNorm, x: torch.Tensor) -> Prepare:
        """GroupNorm with the statistics of the canvas, for strips of `x` on the device."""
        if self.shared and norm in self.shared.norms:
            gain, shift = self.shared.norms[norm]
        else:
            gain, shift = self._gain_and_shift(norm, self.shared.parts(x) if self.shared else [x])
            if self.shared:
                self.shared.norms[norm] = gain, shift
        return lambda strip: torch.addcmul(shift, strip.float(), gain).to(strip.dtype)

    def _gain_and_shift(self, norm: nn.GroupNorm, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """GroupNorm's affine map with the joint statistics of `parts`, N×C×1×1 on the device."""
        n, channels = parts[0].shape[:2]
        count, mean, square = 0, torch.zeros(n, norm.num_groups).double(), torch.zeros(n, norm.num_groups).double()
        for part in parts:
            height, width = part.shape[-2:]
            for a, b in self.rows(height, n * channels * width, torch.float32):
                strip = part[:, :, a:b].to(self.device).float().reshape(n, norm.num_groups, -1)
                variance, average = (t.cpu().double() for t in torch.var_mean(strip, -1, correction=0))
                # Chan et al. 1979: means and sums of squared deviations of parts combine without cancellation.
                added = (b - a) * width * (channels // norm.num_groups)
                delta, total = average - mean, count + added
                square += variance * added + delta**2 * count * added / total
                mean += delta * added / total
                count = total
        scale = (square / count + norm.eps).rsqrt()
        scale, mean = (t.repeat_interleave(channels // norm.num_groups, 1) for t in (scale, mean))
        gain = scale * (1 if norm.weight is None else norm.weight.detach().cpu().double())
        shift = (0 if norm.bias is None else norm.bias.detach().cpu().double()) - mean * gain
        gain, shift = (t[..., None, None].to(self.device, torch.float32) for t in (gain, shift))
        return gain, shift

    def _in_place(self, x: torch.Tensor, change: Prepare) -> torch.Tensor:
        n, channels, height, width = x.shape
        for a, b in self.rows(height, n * channels * width, x.dtype):
            x[:, :, a:b] = change(x[:, :, a:b].to(self.device)).to(x.device)
        return x

    def _convolve(
        self,
        conv: nn.Conv2d,
        x: torch.Tensor,
        pad: tuple[int, int, int, int],
        *,
        enlarge: int = 1,
        prepare: Prepare | None = None,
        after: Callable[[torch.Tensor, int, int], torch.Tensor] | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """prepare → nearest enlargement → padding (left, right, top, bottom) → convolution → after, in strips.

        `out` must not be `x`: the halo of the next strip is read after this one is written.
        """
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        n, _, source_height, source_width = x.shape
        height, width = source_height * enlarge, source_width * enlarge
        out_height = (height + pad[2] + pad[3] - kernel) // stride + 1
        out_width = (width + pad[0] + pad[1] - conv.kernel_size[1]) // conv.stride[1] + 1
        if out is None:
            out = torch.empty(n, conv.out_channels, out_height, out_width, dtype=x.dtype)
        row_values = n * max(conv.in_channels * width * stride, conv.out_channels * out_width)
        for a, b in self.rows(out_height, row_values, x.dtype):
            low, high = a * stride - pad[2], (b - 1) * stride - pad[2] + kernel
            first, last = (low, high) if self.wrap.y else (max(low, 0), min(high, height))
            start = first // enlarge
            strip = _rows(x, start, -(-last // enlarge)).to(self.device)
            if prepare:
                strip = prepare(strip)
            if enlarge > 1:
                strip = F.interpolate(strip, scale_factor=float(enlarge), mode="nearest")
                strip = strip[:, :, first - start * enlarge : last - start * enlarge]
            strip = circular.pad(strip, Wrap(self.wrap.x), (pad[0], pad[1], first - low, high - last))
            strip = F.conv2d(strip, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
            out[:, :, a:b] = (after(strip, a, b) if after else strip).to(out.device)
        return out


def _rows(x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows of N×C×H×W, those before the first and after the last from the opposite edge."""
    height, parts = x.shape[-2], []
    while start < stop:
        at = start % height
        rows = min(stop - start, height - at)
        parts.append(x[:, :, at : at + rows])
        start += rows
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """B×N×(heads·d) → B×heads×N×d"""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)
