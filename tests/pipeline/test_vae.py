"""The VAE in pieces gives what the whole VAE gives, leaves it as it was, and says when its answer is no picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_asym_kl import AsymmetricAutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import nn

from tilehires.errors import ConfigError, ImageError
from tilehires.geometry import Size
from tilehires.memory import VaeShape, vae_bytes
from tilehires.tiling import streamed as streaming
from tilehires.tiling.halo import halo
from tilehires.tiling.vae import Passage, Vae, decode, decode_into, encode, scale_factor


def kl(channels: int = 8, **options) -> AutoencoderKL:
    """Stable Diffusion's VAE, ×8, with attention in the middle and few channels."""
    torch.manual_seed(0)
    build: Any = AutoencoderKL  # its annotations know VAEs of one level only
    return build(
        block_out_channels=(channels,) * 3 + (2 * channels,),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        **options,
    ).eval()


def tiny(levels: int = 4, channels: int = 8) -> AutoencoderTiny:
    torch.manual_seed(0)
    widths, blocks = (channels,) * levels, (1,) * levels
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    ).eval()


def pixels(width: int = 104, height: int = 136, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def latents(vae: Vae, width: int = 13, height: int = 17) -> torch.Tensor:
    channels = vae.config["latent_channels"]
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("vae", [kl(), kl(mid_block_add_attention=False), tiny()], ids=["kl", "no-attention", "tiny"])
def test_whole_is_the_vaes_own_answer(vae: Any) -> None:
    with torch.no_grad():
        answer = vae.encode(pixels())
        own = answer.latents if isinstance(vae, AutoencoderTiny) else answer.latent_dist.mode()
        z = latents(vae)
        picture = vae.decode(z / vae.config["scaling_factor"], return_dict=False)[0]
    assert torch.equal(encode(vae, pixels(), mode="whole"), own * vae.config["scaling_factor"])
    assert torch.equal(decode(vae, z, mode="whole"), picture)


@pytest.mark.parametrize("strip_bytes", [1, 20_000, 10**9])
@pytest.mark.parametrize("options", [{}, {"mid_block_add_attention": False, "use_quant_conv": False}])
def test_a_streamed_kl_is_the_whole_one(strip_bytes: int, options: dict) -> None:
    vae = kl(**options)
    z, x = latents(vae), pixels(batch=2)
    torch.testing.assert_close(
        encode(vae, x, mode="tiled", strip_bytes=strip_bytes), encode(vae, x, mode="whole"), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        decode(vae, z, mode="tiled", strip_bytes=strip_bytes), decode(vae, z, mode="whole"), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("tile", [16, 48, 100, 1000])
def test_a_tiled_tiny_autoencoder_is_the_whole_one(levels: int, tile: int) -> None:
    vae = tiny(levels)
    x, z = pixels(208, 264), latents(vae, 26, 33)
    torch.testing.assert_close(encode(vae, x, mode="tiled", tile=tile), encode(vae, x, mode="whole"), atol=1e-6, rtol=0)
    torch.testing.assert_close(decode(vae, z, mode="tiled", tile=tile), decode(vae, z, mode="whole"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_halo_is_as_wide_as_the_answer_depends_on_and_no_wider(levels: int, part: str) -> None:
    """All weights positive: whatever can reach the answer does."""
    vae = tiny(levels, channels=2)
    layers, factor = getattr(vae, part).layers, scale_factor(vae)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(0.1)
    reach = halo(layers)
    cell = factor if part == "encoder" else 1  # what a latent cell measures in the input
    edge = -(-(2 * reach + 8) // cell) * cell  # the region asked for begins here and ends one cell later
    probe = torch.zeros(1, layers[0].in_channels, 1, 2 * edge + cell).double().requires_grad_()
    answer = layers.double()(probe)
    inside = answer.shape[-1] * edge // probe.shape[-1]
    answer[..., inside : inside + max(1, answer.shape[-1] * cell // probe.shape[-1])].sum().backward()
    seen = probe.grad.abs().amax((0, 1, 2)).nonzero()  # type: ignore[union-attr]
    before, after = edge - int(seen.min()), int(seen.max()) - (edge + cell - 1)
    assert max(before, after) == reach, f"the answer sees {before} cells before and {after} after its region"


def test_a_layer_that_sees_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="GroupNorm"):
        halo(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)))


def test_streaming_holds_strips_of_one_size_however_tall_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    conv2d = streaming.F.conv2d

    def measured(x: torch.Tensor, *args) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return conv2d(x, *args)

    monkeypatch.setattr(streaming.F, "conv2d", measured)
    vae, peaks = kl(mid_block_add_attention=False), []
    for height in (96, 192):
        largest = 0
        decode(vae, latents(vae, 8, height), mode="tiled", strip_bytes=40_000)
        peaks.append(largest)
    assert peaks[0] == peaks[1] < 20_000, "peak memory must not grow with the image's height"


class BrokenError(RuntimeError):
    pass


def test_the_module_is_as_it_was_also_after_an_exception() -> None:
    vae = kl()

    def own_forward(x: torch.Tensor) -> torch.Tensor:
        return nn.Conv2d.forward(vae.decoder.conv_out, x)

    vars(vae.decoder.conv_out)["forward"] = own_forward  # as an offload hook does
    with pytest.raises(BrokenError), streaming.streamed(vae):
        assert vae.decoder.conv_out.forward is not own_forward
        raise BrokenError
    assert vae.decoder.conv_out.forward is own_forward
    assert not [name for name, m in vae.named_modules() if "forward" in vars(m) and m is not vae.decoder.conv_out]


def test_the_callers_tensors_are_not_written_to() -> None:
    vae, x = kl(use_quant_conv=False, use_post_quant_conv=False), pixels()
    before = x.clone()
    z = encode(vae, x, mode="tiled")
    kept = z.clone()
    decode(vae, z, mode="tiled")
    assert torch.equal(x, before) and torch.equal(z, kept)


@pytest.mark.parametrize("mode", ["whole", "tiled"])
def test_half_precision_that_overflows_is_done_again_in_float32(mode) -> None:
    vae = kl(force_upcast=False).half()
    weights = [p.clone() for p in vae.parameters()]
    z = latents(vae) * 3e4
    expected = decode(vae.float(), z, mode="whole")
    vae.half()
    torch.testing.assert_close(decode(vae, z, mode=mode), expected, atol=1e-4, rtol=0)
    assert all(p.dtype == torch.float16 and torch.equal(p, w) for p, w in zip(vae.parameters(), weights, strict=True))


def test_force_upcast_is_honoured_without_a_trial() -> None:
    vae = kl(force_upcast=True)
    z = latents(vae)
    with torch.no_grad():
        expected = decode(vae.half().float(), z, mode="whole")
    assert torch.equal(decode(vae.half(), z, mode="whole"), expected)


@pytest.mark.parametrize("mode", ["whole", "tiled"])
@pytest.mark.parametrize("vae", [kl(), tiny()], ids=["kl", "tiny"])
def test_an_answer_that_stays_infinite_is_an_image_error(vae: Vae, mode) -> None:
    with pytest.raises(ImageError, match="finite") as error:
        decode(vae, torch.full_like(latents(vae), torch.nan), mode=mode)
    assert error.value.hint
    with pytest.raises(ImageError, match="finite"):
        encode(vae, pixels() * torch.inf, mode=mode)


@pytest.mark.parametrize("vae", [kl(), tiny()], ids=["kl", "tiny"])
def test_the_sink_gets_every_row_once_from_top_to_bottom(vae: Vae) -> None:
    z, rows, strips = latents(vae), [], []

    def sink(row: int, strip: torch.Tensor) -> None:
        rows.append(row)
        strips.append(strip)

    decode_into(vae, z, sink, mode="tiled", tile=48)
    assert rows == [0, *torch.tensor([s.shape[-2] for s in strips]).cumsum(0).tolist()][:-1]
    torch.testing.assert_close(torch.cat(strips, -2), decode(vae, z, mode="whole"), atol=2e-5, rtol=0)


def test_shifts_and_statistics_of_the_config_are_applied_both_ways() -> None:
    plain, shifted = kl(scaling_factor=1.0), kl(scaling_factor=0.4, shift_factor=0.1)
    mean, std = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0)
    measured = kl(scaling_factor=0.5, latents_mean=mean, latents_std=std)
    raw = encode(plain, pixels(), mode="whole")
    m, s = (torch.tensor(t)[:, None, None] for t in (mean, std))
    for vae, expected in ((shifted, (raw - 0.1) * 0.4), (measured, (raw - m) / s * 0.5)):
        z = encode(vae, pixels(), mode="whole")
        torch.testing.assert_close(z, expected)
        torch.testing.assert_close(decode(vae, z, mode="whole"), decode(plain, raw, mode="whole"), atol=5e-5, rtol=0)


def test_the_scale_comes_from_the_config() -> None:
    assert [scale_factor(vae) for vae in (kl(), tiny(4), tiny(2))] == [8, 8, 2]


def test_what_cannot_work_is_refused() -> None:
    vae = kl()
    with pytest.raises(ValueError, match="factor 8"):
        encode(vae, pixels(100, 104), mode="whole")
    with pytest.raises(ValueError, match="VAE mode"):
        encode(vae, pixels(), mode="halved")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not on meta"):
        encode(vae, pixels(), mode="whole", device="meta")
    vae.enable_tiling()
    with pytest.raises(ValueError, match="disable_tiling"):
        encode(vae, pixels(), mode="whole")
    torch.manual_seed(0)
    other = AsymmetricAutoencoderKL(norm_num_groups=4, down_block_out_channels=(8,), up_block_out_channels=(8,))
    with pytest.raises(ConfigError, match="AsymmetricAutoencoderKL"):
        decode(other, latents(kl()), mode="tiled")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [Size(8, 8), Size(264, 40), Size(72, 200)])
def test_streaming_is_exact_at_any_shape_with_odd_strips(size: Size) -> None:
    vae = kl()
    x, z = pixels(size.width, size.height), latents(vae, size.width // 8, size.height // 8)
    for strip_bytes in (7_777, 61_001):
        made = encode(vae, x, mode="tiled", strip_bytes=strip_bytes)
        torch.testing.assert_close(made, encode(vae, x, mode="whole"), atol=2e-5, rtol=0)
        decoded = decode(vae, z, mode="tiled", strip_bytes=strip_bytes)
        torch.testing.assert_close(decoded, decode(vae, z, mode="whole"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_host_memory_of_streaming_is_no_more_than_planned(part: str) -> None:
    from benchmarks.memory import LiveBytes

    vae, size = kl(16), Size(256, 256)
    x, z = pixels(size.width, size.height), latents(vae, size.width // 8, size.height // 8)
    with LiveBytes() as counter:
        (
            encode(vae, x, mode="tiled", strip_bytes=1)
            if part == "encode"
            else decode(vae, z, mode="tiled", strip_bytes=1)
        )
    planned = vae_bytes(VaeShape((16, 16, 16, 32), bounded=False), size)
    assert counter.peak < planned * 1.15 + 4 * size.pixels * 6, f"{counter.peak} bytes, {planned} planned"
    assert counter.peak > planned * 0.5


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_what_overflows_goes_to_bfloat16_where_the_device_has_it(
    has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilehires.tiling.vae._has_bfloat16", lambda device: has_bfloat16)
    vae, told = kl(force_upcast=False).half(), []
    z = latents(vae) * 3e4
    answer = decode(vae, z, mode="tiled", tell=told.append)
    wider = torch.bfloat16 if has_bfloat16 else torch.float32
    assert told == [Passage("tiled", torch.float16, wider, None)]
    assert told[0].degradations == (f"vae: not finite in float16, done again in {str(wider)[6:]}",)
    torch.testing.assert_close(answer, decode(vae, z, mode="tiled", dtype=wider), atol=0, rtol=0)
    told.clear()
    decode(vae, z / 3e4, mode="tiled", tell=told.append)
    assert told[0].degradations == (), "what was finite needs no second attempt"
