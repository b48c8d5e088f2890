"""Work memory of one UNet call per latent cell: what memory.plan's prediction rests on.

    python -m benchmarks.memory

Models are built on the meta device, so that real sizes cost nothing: every tensor that comes alive during a forward call
is counted until it is freed, at 2 bytes a number (16 bit). Attention is counted as fused (no matrix of weights). The table
gives the peak per latent cell and batch entry at growing canvases; the planner uses the largest, at the family's tile size.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tilehires.batch.needs import DETECTOR_WORK, FACE_WORK
from tilehires.diffusion.checkpoints import BUILTIN_FOLDER
from tilehires.diffusion.family import BUILTIN, FAMILIES, Family
from tilehires.diffusion.header import CONFIGS
from tilehires.tiling.live import LiveBytes

CELLS = (64, 96, 128, 192, 256)


def fused_attention() -> Any:
    """Attention as fused kernels hold it: on the meta device torch would make the whole matrix of weights."""

    def answer(query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        return torch.empty_like(query)

    return mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", answer)


def per_cell(config: dict[str, Any], cells: int) -> float:
    """KiB per latent cell at a square canvas of `cells`, batch 1, 16 bit."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).half().eval()
        x = torch.empty(1, config["in_channels"], cells, cells, dtype=torch.float16)
        text = torch.empty(1, 77, config["cross_attention_dim"], dtype=torch.float16)
        added = None
        if config.get("addition_time_embed_dim"):
            ids = 5 if config["cross_attention_dim"] == 1280 else 6  # SDXL's refiner takes a score for the target size
            pooled = config["projection_class_embeddings_input_dim"] - ids * config["addition_time_embed_dim"]
            added = {
                "text_embeds": torch.empty(1, pooled, dtype=torch.float16),
                "time_ids": torch.empty(1, ids, dtype=torch.float16),
            }
        with torch.no_grad(), fused_attention(), LiveBytes() as counter:
            unet(x, torch.empty((), dtype=torch.int64), text, added_cond_kwargs=added)
    return counter.peak / cells**2 / 1024


def config_of(family: Family) -> dict[str, Any]:
    """The family's UNet config."""
    path = BUILTIN_FOLDER if family is BUILTIN else CONFIGS / family.name
    return json.loads((path / "unet" / "config.json").read_text(encoding="utf-8"))


def face_models() -> dict[str, float]:
    """MiB that face restoration models take at a face of 512², in float32; CodeFormer's needs spandrel_extra_arches."""
    from spandrel.architectures.GFPGAN import GFPGAN
    from spandrel.architectures.RestoreFormer import RestoreFormer

    found = {}
    for kind in (GFPGAN, RestoreFormer):
        with torch.device("meta"):
            model, face = kind().eval(), torch.empty(1, 3, 512, 512)
            with torch.no_grad(), LiveBytes() as counter:
                model(face)
        found[kind.__name__] = counter.peak / 2**20
    return found


def detectors() -> dict[str, float]:
    """Bytes per pixel that YOLO models take, in float32, at 192² (random weights)."""
    from tilehires.detectors.yolo import _ultralytics

    _ultralytics()
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    found = {}
    for name in ("yolov8n", "yolov8x", "yolov8x-seg", "yolo11x-seg", "yolov9e-seg"):
        model = (SegmentationModel if "seg" in name else DetectionModel)(f"{name}.yaml", verbose=False).eval()
        with torch.no_grad(), LiveBytes() as counter:
            model(torch.zeros(1, 3, 192, 192))
        found[name] = counter.peak / 192**2
    return found


def main() -> None:
    print("KiB per latent cell and batch entry, 16 bit")
    print(f"{'family':<10}" + "".join(f"{cells:>9}²" for cells in CELLS) + f"{'planned':>10}")
    for family in (BUILTIN, *FAMILIES.values()):
        values = [per_cell(config_of(family), cells) for cells in CELLS]
        print(f"{family.name:<10}" + "".join(f"{v:>10.2f}" for v in values) + f"{family.bytes_per_cell / 1024:>10.2f}")
    print(f"MiB of a face restored (planned: {FACE_WORK / 2**20:.0f})")
    for name, value in face_models().items():
        print(f"{name:<16}{value:>8.0f}")
    print(f"Bytes per pixel looked at by a detector (planned: {DETECTOR_WORK})")
    for name, value in detectors().items():
        print(f"{name:<16}{value:>8.0f}")


if __name__ == "__main__":
    main()
