"""Write the package's model folder from the checkpoints there are: fp16 safetensors, each file atomically.

    python -m tools.export [--work /tmp/train] [--to tilehires/builtin]

A part without a checkpoint is written untrained, so that code can be written against the folder's final form.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file
from torch import Tensor, nn

from tools import pipeline_parts, train_upscaler, train_vae
from tools.vocabulary import words

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}
LIMIT_MB = 24


def checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None."""
    return torch.load(path, weights_only=True) if path.exists() else None


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under `prefix`, without it.

    >>> sorted(part_of({"unet.a": torch.zeros(1), "text.a": torch.ones(1)}, "unet."))
    ['a']
    """
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def upscaler(work: Path, scale: int) -> nn.Module:
    """The upscaler as trained so far, or untrained."""
    model = train_upscaler.build(scale)
    if content := checkpoint(work / f"upscale_{scale}x.pt"):
        model.load_state_dict(content["model"])
    return model.eval()


def trained_vae(work: Path) -> AutoencoderTiny:
    """The autoencoder of the last phase there is, its scaling factor set from the first."""
    vae = train_vae.build()
    for phase in (1, 2):
        if content := checkpoint(work / f"vae_{phase}.pt"):
            vae.load_state_dict(content["vae"])
    if (scaling := work / "scaling.json").exists():
        vae.register_to_config(scaling_factor=json.loads(scaling.read_text())["scaling_factor"])
    return vae.eval()


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and, for readers of the older form, vocab.json and merges.txt."""
    tokens = pipeline_parts.tokenizer()
    tokens.save_pretrained(folder)
    vocabulary = dict(sorted(tokens.get_vocab().items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in pipeline_parts.learn_merges(words()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")


def drop_derived(path: Path) -> None:
    """Take out of an AutoencoderTiny's config what its constructor sets itself and warns about when it is given."""
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_model(work: Path, folder: Path) -> None:
    """Write the diffusers folder."""
    tokens = pipeline_parts.tokenizer()
    encoder, unet = pipeline_parts.text_encoder(tokens), pipeline_parts.unet()
    if content := checkpoint(work / "unet.pt"):
        unet.load_state_dict(part_of(content["average"], "unet."))
        encoder.load_state_dict(part_of(content["average"], "text."))
    write_tokenizer(folder / "tokenizer")
    pipeline_parts.scheduler().save_pretrained(folder / "scheduler")
    for name, part in (("text_encoder", encoder), ("unet", unet), ("vae", trained_vae(work))):
        part.half().save_pretrained(folder / name)
    drop_derived(folder / "vae" / "config.json")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def write_upscalers(work: Path, folder: Path) -> None:
    """Write upscale_2x.safetensors and upscale_4x.safetensors."""
    for scale in (2, 4):
        state = upscaler(work, scale).state_dict()
        save_file({k: v.half().contiguous() for k, v in state.items()}, folder / f"upscale_{scale}x.safetensors")


def export(work: Path, target: Path) -> None:
    """Write everything beside `target`, then move file by file; says the size and fails above LIMIT_MB."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        fresh = Path(name)
        write_model(work, fresh / "model")
        write_upscalers(work, fresh)
        for path in sorted(p for p in fresh.rglob("*") if p.is_file()):
            goal = target / path.relative_to(fresh)
            goal.parent.mkdir(parents=True, exist_ok=True)
            path.replace(goal)
    size = sum(p.stat().st_size for p in target.rglob("*.safetensors")) / 1e6
    print(f"{target}: {size:.2f} MB of weights")
    if size > LIMIT_MB:
        raise SystemExit(f"the weights exceed {LIMIT_MB} MB: make the UNet smaller in tools/pipeline_parts.py")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/train"))
    parser.add_argument("--to", type=Path, default=Path("tilehires/builtin"))
    options = parser.parse_args()
    export(options.work, options.to)


if __name__ == "__main__":
    main()
