"""The built-in pipeline's untrained parts: tokenizer, text encoder, UNet, noise schedule."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tools.train_vae import LATENTS
from tools.vocabulary import words

TEXT_WIDTH = 96
STEPS = 1000
WORST = 0.995
"""The share of noise at the last timestep: noise 199 times the signal, finite in half precision."""


def merge_pair(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of `pair`, left to right.

    >>> merge_pair(("r", "e", "d</w>"), ("r", "e"))
    ('re', 'd</w>')
    """
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich, Haddow, Birch 2016), in order, that make each word one token."""
    split = {word: (*word[:-1], word[-1] + "</w>") for word in vocabulary}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for parts in split.values() for pair in zip(parts, parts[1:], strict=False))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: merge_pair(parts, best) for word, parts in split.items()}


def tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level tokenizer in which every word of the vocabulary is one token; any other text is spelt."""
    characters = list(bytes_to_unicode().values())
    merges = learn_merges(words())
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", model_max_length=77)


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """Two CLIP text layers, TEXT_WIDTH wide; the vocabulary is the tokenizer's."""
    vocabulary = tokens.get_vocab()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    torch.manual_seed(3)
    encoder = CLIPTextModel(config)
    with torch.no_grad():
        embeddings = getattr(encoder, "text_model", encoder).embeddings
        embeddings.token_embedding.weight.normal_(0, 0.5)
        embeddings.position_embedding.weight.normal_(0, 0.1)
    return encoder


def unet() -> UNet2DConditionModel:
    """The denoiser of (n, 8, h, w) latents, thin at full resolution; attention at a quarter and an eighth of it.

    The pooled text also joins the time embedding: colours and textures are learnt far sooner through it than through
    cross-attention alone, and it costs next to nothing.
    """
    torch.manual_seed(4)
    model = UNet2DConditionModel(
        sample_size=64,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    open_path(model)
    return model


@torch.no_grad()
def open_path(model: UNet2DConditionModel) -> None:
    """Start the UNet with a path that carries its noisy input to the output unspoilt, gated by the time embedding.

    Each latent channel x runs as the pair +x, -x, since silu(x) - silu(-x) = x.
    """
    last = model.up_blocks[-1].resnets[-1]
    width = model.config.block_out_channels[0]
    for convolution in (model.conv_in, last.conv1, last.conv2, last.conv_shortcut):
        convolution.weight[: 2 * LATENTS] *= 0.1
        convolution.bias[: 2 * LATENTS] = 0
    model.conv_out.weight.mul_(0.1)
    model.conv_out.bias.zero_()
    for c in range(LATENTS):
        for k, sign in ((2 * c, 1.0), (2 * c + 1, -1.0)):
            model.conv_in.weight[k] = 0
            model.conv_in.weight[k, c, 1, 1] = sign
            last.conv_shortcut.weight[k, width + k, 0, 0] = 1.0
            for d, other in ((2 * c, 1.0), (2 * c + 1, -1.0)):
                last.conv1.weight[k, width + d, 1, 1] = sign * other
                last.conv2.weight[k, d, 1, 1] = 0.5 * sign * other
            model.conv_out.weight[c, k, 1, 1] = 0.3 * sign


def noise_share() -> NDArray[np.float64]:
    """d for each of the STEPS timesteps: noise to signal is d to 1 - d, as in flow matching, and d is t / 1000."""
    return WORST * np.arange(1, STEPS + 1) / STEPS


def signal_power() -> NDArray[np.float64]:
    """alpha_bar for each timestep: (1 - d)^2 / ((1 - d)^2 + d^2)."""
    d = noise_share()
    return (1 - d) ** 2 / ((1 - d) ** 2 + d**2)


def scheduler() -> DDIMScheduler:
    """The noise schedule as every diffusers scheduler reads it: 1000 betas, v-prediction, trailing steps."""
    power = signal_power()
    betas = 1 - power / np.concatenate([[1.0], power[:-1]])
    return DDIMScheduler(
        num_train_timesteps=STEPS,
        trained_betas=[float(f"{beta:.9g}") for beta in betas],
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
