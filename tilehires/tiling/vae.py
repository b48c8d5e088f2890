"""Pixels to latents and back, whole or in bounded device memory, with one answer either way.

"whole" calls the VAE as it is. "tiled" gives the same to rounding: AutoencoderTiny by tiles with an exact halo
(halo.py), AutoencoderKL by streaming its layers (streamed.py). "estimated" bounds host memory too, and says how far off
it may be (estimated.py; AutoencoderTiny's tiles are exact all the same). diffusers' own tiling normalises per tile: not
used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast, get_args

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from tilehires.errors import ConfigError, ImageError
from tilehires.geometry import OPEN, Size, Wrap
from tilehires.memory import VaeMode
from tilehires.tiling import estimated
from tilehires.tiling.circular import circular
from tilehires.tiling.estimated import Deviation
from tilehires.tiling.halo import halo, map_rows
from tilehires.tiling.planes import Planes
from tilehires.tiling.streamed import STRIP_BYTES, streamed

Vae = AutoencoderKL | AutoencoderTiny
Mode = VaeMode
Sink = Callable[[int, torch.Tensor], None]
TILE = 512  # pixels a side of AutoencoderTiny's tiles, without their halo


@dataclass(frozen=True, slots=True)
class Passage:
    """How an encode or a decode went: in which number format at last, and how far off an estimate may be."""

    mode: Mode
    asked: torch.dtype
    dtype: torch.dtype
    deviation: Deviation | None

    @property
    def degradations(self) -> tuple[str, ...]:
        """What went otherwise than asked, for a record."""
        if self.dtype == self.asked:
            return ()
        asked, done = (str(dtype).removeprefix("torch.") for dtype in (self.asked, self.dtype))
        return (f"vae: not finite in {asked}, done again in {done}",)


Tell = Callable[[Passage], None]


def scale_factor(vae: Vae) -> int:
    """Pixels per latent cell along each axis: a power of two, read from the VAE's config."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def encode(
    vae: Vae,
    pixels: torch.Tensor | Planes,
    *,
    mode: Mode,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tile: int = TILE,
    strip_bytes: int = STRIP_BYTES,
    tell: Tell | None = None,
    wrap: Wrap = OPEN,
) -> torch.Tensor:
    """The latents the denoiser sees: the posterior's mode, shifted and scaled by the VAE's own factors.

    `pixels`: B×3×H×W in [-1, 1], on the CPU, H and W multiples of `scale_factor(vae)`; of `Planes` only strips or tiles
    are made, unless the mode is "whole". Returns B×C×h×w, float32, CPU.
    The VAE must be on `device` (its own when None); it computes in `dtype` (its own when None; float32 for a VAE whose
    config says force_upcast where float16 is asked), and where the answer isn't finite again, in bfloat16 where float16
    was asked and the device has that, at last in float32. `tell` is told how it went. Along the axes of `wrap` the
    picture goes on at its other side, in every mode.
    Raises ImageError when it isn't finite in float32 either, ValueError for another size or device, and for more than
    one picture in mode "estimated".
    """
    factor = scale_factor(vae)
    height, width = pixels.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"pixels of {width}x{height} for a VAE of factor {factor}; pad them to multiples first")
    strips: list[torch.Tensor] = []
    place = _place(vae, device)

    def put(row: int, strip: torch.Tensor) -> None:
        if row == 0:
            strips.clear()  # a second attempt begins
        strips.append(strip)

    def run(compute: torch.dtype, emit: Sink) -> Deviation | None:
        cells = Size(width // factor, height // factor)
        if mode == "whole":
            with circular(wrap, vae):
                emit(0, _mode(vae, pixels[:, :, :].to(place, compute)))
        elif isinstance(vae, AutoencoderTiny):
            reach = -(-halo(vae.encoder.layers) // factor)
            side = max(1, tile // factor)
            map_rows(
                vae.encoder,
                pixels,
                emit,
                cells=cells,
                reach=reach,
                tile=side,
                device=place,
                dtype=compute,
                wrap=wrap,
            )
        elif mode == "estimated":
            _one(pixels.shape[0])
            kl, call = _kl(vae), partial(_mode, vae)
            return estimated.run(
                kl, kl.encoder, call, pixels, emit, cells=cells, dtype=compute, strip_bytes=strip_bytes, wrap=wrap
            )
        else:
            with streamed(_kl(vae), strip_bytes, wrap=wrap):
                emit(0, _mode(vae, _typed(pixels, compute)))
        return None

    _until_finite(vae, mode, dtype, run, put, "latents", tell)
    return _normalised(vae, torch.cat(strips, -2))


def decode(
    vae: Vae,
    latents: torch.Tensor,
    *,
    mode: Mode,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tile: int = TILE,
    strip_bytes: int = STRIP_BYTES,
    tell: Tell | None = None,
    wrap: Wrap = OPEN,
) -> torch.Tensor:
    """The pixels of `latents` as the denoiser sees them (B×C×h×w): B×3×H×W around [-1, 1], unclamped, float32, CPU.

    Device, dtype and errors as in `encode`.
    """
    factor, (height, width) = scale_factor(vae), latents.shape[-2:]
    pixels = torch.empty(latents.shape[0], vae.config["out_channels"], height * factor, width * factor)

    def put(row: int, strip: torch.Tensor) -> None:
        pixels[..., row : row + strip.shape[-2], :] = strip

    decode_into(
        vae,
        latents,
        put,
        mode=mode,
        device=device,
        dtype=dtype,
        tile=tile,
        strip_bytes=strip_bytes,
        tell=tell,
        wrap=wrap,
    )
    return pixels


def decode_into(
    vae: Vae,
    latents: torch.Tensor,
    sink: Sink,
    *,
    mode: Mode,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tile: int = TILE,
    strip_bytes: int = STRIP_BYTES,
    tell: Tell | None = None,
    wrap: Wrap = OPEN,
) -> None:
    """As `decode`, but `sink(row, strip)` gets the pixels from top to bottom, B×3×rows×W each, and no whole is held.

    Where an answer isn't finite, `sink` is called again from row 0 with those of the second attempt.
    """
    place, factor = _place(vae, device), scale_factor(vae)
    raw = _denormalised(vae, latents.to("cpu", torch.float32))

    def run(compute: torch.dtype, emit: Sink) -> Deviation | None:
        cells = Size(raw.shape[-1], raw.shape[-2])
        if mode == "whole":
            with circular(wrap, vae):
                emit(0, _sample(vae, raw.to(place, compute)))
        elif isinstance(vae, AutoencoderTiny):
            reach, side = halo(vae.decoder.layers), max(1, tile // factor)
            map_rows(
                vae.decoder, raw, emit, cells=cells, reach=reach, tile=side, device=place, dtype=compute, wrap=wrap
            )
        elif mode == "estimated":
            _one(raw.shape[0])
            kl, call = _kl(vae), partial(_sample, vae)
            return estimated.run(
                kl, kl.decoder, call, raw, emit, cells=cells, dtype=compute, strip_bytes=strip_bytes, wrap=wrap
            )
        else:
            with streamed(_kl(vae), strip_bytes, wrap=wrap):
                emit(0, _sample(vae, raw.to(compute)))
        return None

    _until_finite(vae, mode, dtype, run, sink, "pixels", tell)


class _NotFiniteError(Exception):
    """The answer has an infinity or no number in it; caught where the next dtype is tried."""


def _until_finite(
    vae: Vae,
    mode: Mode,
    dtype: torch.dtype | None,
    run: Callable[[torch.dtype, Sink], Deviation | None],
    sink: Sink,
    what: str,
    tell: Tell | None,
) -> None:
    """Run in the asked dtype, then in those of wider range where the answer isn't finite: float16 overflows in some."""
    if mode not in get_args(Mode):
        raise ValueError(f"a VAE mode {mode!r}; there are {', '.join(get_args(Mode))}")
    if getattr(vae, "use_tiling", False) or getattr(vae, "use_slicing", False):
        raise ValueError("diffusers' own VAE tiling or slicing is on; call vae.disable_tiling() and disable_slicing()")
    asked = dtype or next(vae.parameters()).dtype
    if asked == torch.float16 and vae.config.get("force_upcast"):
        asked = torch.float32

    def checked(row: int, strip: torch.Tensor) -> None:
        if not torch.isfinite(strip).all():
            raise _NotFiniteError
        sink(row, strip.to("cpu", torch.float32))

    wider = (torch.bfloat16,) if asked == torch.float16 and _has_bfloat16(next(vae.parameters()).device) else ()
    for compute in dict.fromkeys((asked, *wider, torch.float32)):
        try:
            with _weights_as(vae, compute), torch.no_grad():
                deviation = run(compute, checked)
        except _NotFiniteError:
            continue
        if tell:
            done = "tiled" if mode == "estimated" and deviation is None else mode
            tell(Passage(done, asked, compute, deviation))
        return
    raise ImageError(
        f"The VAE's {what} aren't finite, not even in float32.",
        hint="Try another VAE (model.vae); if the input's latents came from sampling, a lower cfg or another sampler.",
    )


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a CPU is no slower in float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _one(pictures: int) -> None:
    if pictures != 1:
        raise ValueError(f"{pictures} pictures at once have no statistics in common; estimate them one by one")


@contextlib.contextmanager
def _weights_as(vae: Vae, dtype: torch.dtype) -> Iterator[None]:
    """The weights in another dtype for a while; the very same tensors come back, so nothing is rounded for good."""
    kept = [(p, p.data) for p in (*vae.parameters(), *vae.buffers()) if p.is_floating_point() and p.dtype != dtype]
    try:
        for tensor, data in kept:
            tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def _place(vae: Vae, device: torch.device | str | None) -> torch.device:
    actual = next(vae.parameters()).device
    asked = torch.device(device) if device is not None else actual
    if asked.type != actual.type or asked.index not in (None, actual.index):
        raise ValueError(f"the VAE is on {actual}, not on {asked}; hold it there while it is used")
    return actual


def _kl(vae: Vae) -> AutoencoderKL:
    if not isinstance(vae, AutoencoderKL):
        raise ConfigError(
            f"A {type(vae).__name__} can't be tiled exactly.",
            hint="Use memory.vae = 'whole', or a VAE of class AutoencoderTiny or AutoencoderKL.",
        )
    return vae


def _typed(pixels: torch.Tensor | Planes, dtype: torch.dtype) -> torch.Tensor:
    """In `dtype`, on the CPU. Planes pass for a tensor: the first layer of a streamed VAE only cuts strips of rows."""
    return cast(torch.Tensor, pixels.typed(dtype)) if isinstance(pixels, Planes) else pixels.to("cpu", dtype)


def _mode(vae: Vae, pixels: torch.Tensor) -> torch.Tensor:
    answer = vae.encode(pixels)
    return cast(torch.Tensor, answer.latents if hasattr(answer, "latents") else answer.latent_dist.mode())  # type: ignore[union-attr]


def _sample(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, vae.decode(cast(torch.FloatTensor, latents), return_dict=False)[0])


def _statistics(vae: Vae) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Per-channel mean and standard deviation, where a VAE has them (Playground 2.5) in place of a shift."""
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return None
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def _normalised(vae: Vae, raw: torch.Tensor) -> torch.Tensor:
    if statistics := _statistics(vae):
        mean, std = statistics
        return (raw - mean) * vae.config["scaling_factor"] / std
    shift = vae.config.get("shift_factor")
    return (raw - shift if shift else raw) * vae.config["scaling_factor"]


def _denormalised(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    if statistics := _statistics(vae):
        mean, std = statistics
        return latents * std / vae.config["scaling_factor"] + mean
    raw, shift = latents / vae.config["scaling_factor"], vae.config.get("shift_factor")
    return raw + shift if shift else raw
