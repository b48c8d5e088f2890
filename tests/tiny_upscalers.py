"""Tiny upscaler models with random weights, written as the files people download."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet


def compact(path: Path, *, scale: int = 2, channels: int = 3, layers: int = 1, seed: int = 0) -> Path:
    """Real-ESRGAN's Compact: nearest-neighbour enlargement plus a few convolutions, which look 2 + `layers` far."""
    torch.manual_seed(seed)
    net = SRVGGNetCompact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=layers, upscale=scale)
    return save(net.state_dict(), path)


def esrgan(path: Path, *, scale: int = 4, shuffle: int = 1, seed: int = 0) -> Path:
    """ESRGAN of one block. With `shuffle` 2 it asks for sides that are multiples of 4, as Real-ESRGAN 2x does."""
    torch.manual_seed(seed)
    net = RRDBNet(in_nc=3 * shuffle**2, num_filters=8, num_blocks=1, scale=scale * shuffle)
    return save(net.state_dict(), path)


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    """As .safetensors, or as the pickle that ".pth" stands for."""
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"params_ema": state}, path)
    return path


def restoreformer(path: Path, *, seed: int = 0) -> Path:
    """RestoreFormer with one block a level and the fewest channels that its norms take; 512² in and out."""
    from spandrel.architectures.RestoreFormer.__arch.restoreformer_arch import RestoreFormer

    torch.manual_seed(seed)
    net = RestoreFormer(n_embed=16, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1, z_channels=32)
    return save(net.state_dict(), path)
