"""What a run, or one image of it, demands of the device: the parts that memory.plan weighs against the budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tilehires import upscalers
from tilehires.batch.job import Job
from tilehires.config.settings import SamplingPass, Settings
from tilehires.detectors import DetectorFile
from tilehires.diffusion import controlnets, lora
from tilehires.diffusion.anatomy import VaeAnatomy, anatomy
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.lora import Lora
from tilehires.geometry import Size
from tilehires.memory import Demand, Part
from tilehires.stages.check import CheckStage
from tilehires.stages.controls import found
from tilehires.stages.cutting import tile_range
from tilehires.stages.detail import DetailStage
from tilehires.stages.generate import GenerateStage
from tilehires.stages.redenoise import CANVAS, PassStage
from tilehires.tiling.streamed import STRIP_BYTES
from tilehires.tiling.vae import TILE
from tilehires.upscalers.model import WHOLE_SIDE

TEXT_WORK = 64 * 2**20  # one chunk of 77 tokens through CLIP-bigG, all layers kept: 20 MiB in 16 bits
STRIPS = 8  # strips of a streamed VAE's layer that are on the device at once, at most
RESIDUALS = 0.35  # of the UNet's work: 1640 numbers per cell in both families, at most a third of it
DETECTOR_WORK = 1200  # bytes per pixel in float32: YOLO 9e-seg takes 1175, 8x-seg 340, 8n 48 (benchmarks/memory.py)
FACE_WORK = 720 * 2**20  # RestoreFormer takes 689 MiB, CodeFormer 561, GFPGAN 543 (benchmarks/memory.py)
HALO = 128  # pixels around AutoencoderTiny's tiles; real ones see 64–90


@dataclass(frozen=True)
class Model:
    """What a run computes with. `refiners`: that take over in its passes. `loras`: numbers as `lora_numbers` counts them."""

    checkpoint: Checkpoint
    vae: str | None
    dtype: torch.dtype
    refiners: tuple[Checkpoint, ...] = ()
    loras: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Work:
    """Sizes in pixels that a sampling pass meets at most: `tile` and `canvas` (in one piece) of the UNet, `pixels` of the VAE.

    None: it doesn't meet one, or of the VAE's canvas: its size isn't known yet.
    """

    tile: Size | None
    canvas: Size | None
    pixels: Size | None
    whole: bool = False
    """The VAE takes them in one piece."""


def of_run(settings: Settings, values: SamplingPass, model: Model) -> list[Part]:
    """The bounds of a pass that settings alone give, whatever the images."""
    tile = tile_range(settings.tiled, model.checkpoint.family)[1]
    work = Work(_square(tile), _square(settings.hires.max_canvas), None)
    return _parts(settings, [values], [work], model)


def of_job(job: Job, dtype: torch.dtype) -> list[list[Part]]:
    """What this image's passes really meet, for each model that they sample with, and what its detail passes meet at most."""
    stages: dict[Model, list[PassStage | GenerateStage]] = {}
    for stage in job.stages:
        if isinstance(stage, PassStage | GenerateStage):
            model = Model(stage.checkpoint, stage.settings.values.vae, dtype)
            stages.setdefault(model, []).append(stage)
    settings = job.config.settings
    refined = {
        model: replace(model, refiners=_refiners(own), loras=lora_numbers(stage.extras.loras for stage in own))
        for model, own in stages.items()
    }
    passes = [(stage.settings.values, refined[model]) for model, own in stages.items() for stage in own]
    details = [stage for stage in job.stages if isinstance(stage, DetailStage)]
    return [
        *(
            _parts(
                settings,
                [stage.settings.values for stage in own],
                [_work_of(stage, model) for stage in own if stage.settings.values.denoise > 0],
                refined[model],
            )
            for model, own in stages.items()
        ),
        *(parts for stage in details for parts in of_detail(stage, settings, dtype, passes)),
        *(parts for stage in job.stages if isinstance(stage, CheckStage) for parts in of_check(stage.detector)),
    ]


def of_detail(
    stage: DetailStage,
    settings: Settings,
    dtype: torch.dtype,
    passes: Sequence[tuple[SamplingPass, Model]],
    *,
    any_size: bool = False,
) -> list[list[Part]]:
    """What each pass of a detail stage demands. `passes`: the image's others, with what each samples with: of those with the
    same model, all that stays on the device may still be there. `any_size`: the stage's size isn't an image's.
    """
    works = [[Work(None, None, size, whole) for size, whole in stage.pieces(i).vae] for i in range(len(stage.means))]
    if any_size:
        works = [[work for work in each if work.whole] for each in works]
    return [_of_detail_pass(stage, i, settings, dtype, passes, each) for i, each in enumerate(works)]


def _of_detail_pass(
    stage: DetailStage,
    number: int,
    settings: Settings,
    dtype: torch.dtype,
    passes: Sequence[tuple[SamplingPass, Model]],
    works: Sequence[Work],
) -> list[Part]:
    one, means, detector = stage.settings.passes[number], stage.means[number], stage.found[number]
    parts = [_detector(file) for file in detector.files if detector.on_device]
    if one.denoise == 0:
        return parts or [Part("detector", 0, (Demand("on the CPU", 0),))]
    model, each, pieces = Model(means.checkpoint, means.vae, dtype), dtype.itemsize, stage.pieces(number)
    text, unet = lora_numbers(extras.loras for extras in means.extras.values())
    sizes, guided = anatomy(model.checkpoint, model.vae), stage.work(number).cfg > 1
    own = model.checkpoint.unet_parameters + sum(controlnets.parameters(net) for net in means.nets) + unet
    demands = list(_unet_demands([Work(pieces.tile, None, None)], model, guided=guided, nets=len(means.nets)))
    for size, together, what in ((pieces.region, True, "regions of"), (pieces.alone, False, "a region of")):
        if size is not None:
            taken = _unet_bytes(size, model, guided=guided, nets=len(means.nets))
            demands.append(Demand(f"{what} {size}{' with guidance' if guided else ''}", taken, regions=together))
    parts += [
        Part("text encoders", (sizes.text + text) * each, (Demand("one prompt", TEXT_WORK),)),
        _vae(sizes.vae, settings, works, dtype),
        Part("UNet", own * each, tuple(demands), layer=sizes.unet_layer * each),
    ]
    if means.restorer:
        parts.append(_restorer(means.restorer))
    same = [(values, other) for values, other in passes if replace(other, refiners=(), loras=model.loras) == model]
    return parts + [part for values, other in same for part in _at_rest(values, other, settings)]


def of_check(detector: DetectorFile | None) -> list[list[Part]]:
    """What the detector demands that looks for duplicated subjects."""
    return [[_detector(file)] for file in detector.files if detector.on_device] if detector else []


def _detector(path: Path) -> Part:
    # A .pt holds 16 bits for each of 32 at work.
    weights = path.stat().st_size * (2 if path.suffix.lower() == ".pt" else 1)
    return Part("detector", weights, (Demand("a picture of 1024x1024", 1024**2 * DETECTOR_WORK),), alone=True)


def _restorer(path: Path) -> Part:
    from tilehires.upscalers.need import parameters

    return Part("face restoration", parameters(path) * 4, (Demand("a face of 512x512", FACE_WORK),))


def _at_rest(values: SamplingPass, model: Model, settings: Settings) -> Iterable[Part]:
    """What another pass with the same checkpoint may leave on the device: it isn't at work."""

    def part(name: str, weights: int) -> Part:
        return Part(name, weights, (Demand("at rest", 0),))

    each = model.dtype.itemsize
    for path in upscalers.files(values.upscaler):
        yield part("upscaler", _upscaler(path, settings, model).weights)
    for net in found(values, model.checkpoint) if values.denoise > 0 else ():
        yield part("ControlNet", controlnets.parameters(net) * each)
    for refiner in model.refiners:
        yield part("refiner's text", anatomy(refiner, model.vae).text * each)
        yield part("refiner", refiner.unet_parameters * each)


def lora_numbers(passes: Iterable[Sequence[Lora]]) -> tuple[int, int]:
    """The most numbers that LoRAs put on the text encoders, and on the UNet: a pass's are on the model at once."""
    text = unet = 0
    for loras in passes:
        counts = [lora.parameters(one.file) for one in lora.merged(loras)]
        text, unet = max(text, sum(t for t, _ in counts)), max(unet, sum(u for _, u in counts))
    return text, unet


def _refiners(stages: Iterable[PassStage | GenerateStage]) -> tuple[Checkpoint, ...]:
    found_ = [stage.refiner for stage in stages if stage.refiner is not None]
    return tuple(dict.fromkeys(found_))


def _work_of(stage: PassStage | GenerateStage, model: Model) -> Work:
    factor = model.checkpoint.vae_factor
    grid = stage.grid(factor)
    tile = Size(grid.tile.width * factor, grid.tile.height * factor)
    one = len(grid.tiles) == 1
    return Work(
        None if one else tile,
        tile if one else None,
        stage.settings.size.ceil_to(CANVAS),
        stage.settings.vae_mode == "whole",
    )


def _parts(settings: Settings, passes: Sequence[SamplingPass], works: Sequence[Work], model: Model) -> list[Part]:
    names = dict.fromkeys(one.upscaler for one in passes)
    parts = [_upscaler(path, settings, model) for name in names for path in upscalers.files(name)]
    sampling = [one for one in passes if one.denoise > 0]
    if not sampling:
        return parts or [Part("upscaler", 0, (Demand("a kernel, in host memory", 0),))]
    sizes, each = anatomy(model.checkpoint, model.vae), model.dtype.itemsize
    guided = any(one.cfg > 1 for one in sampling)
    nets = {net for one in sampling for net in found(one, model.checkpoint)}
    own = model.checkpoint.unet_parameters + sum(controlnets.parameters(net) for net in nets) + model.loras[1]
    parts = [
        Part("text encoders", (sizes.text + model.loras[0]) * each, (Demand("one prompt", TEXT_WORK),)),
        *parts,
        _vae(sizes.vae, settings, works, model.dtype),
        Part(
            "UNet",
            own * each,  # ControlNets work beside it, within each tile, and LoRAs are never fused
            tuple(_unet_demands(works, model, guided=guided, nets=len(nets))),
            layer=sizes.unet_layer * each,
        ),
    ]
    for refiner in model.refiners:
        parts += _refiner(replace(model, checkpoint=refiner), works, guided=guided)
    return parts


def _refiner(model: Model, works: Sequence[Work], *, guided: bool) -> tuple[Part, Part]:
    """It meets the pass's sizes, in turn with the pass's own UNet and without its ControlNets; its VAE isn't used."""
    sizes, each = anatomy(model.checkpoint, model.vae), model.dtype.itemsize
    return (
        Part("refiner's text", sizes.text * each, (Demand("one prompt", TEXT_WORK),)),
        Part(
            "refiner",
            model.checkpoint.unet_parameters * each,
            tuple(_unet_demands(works, model, guided=guided, nets=0)),
            layer=sizes.unet_layer * each,
        ),
    )


def _upscaler(path: Path, settings: Settings, model: Model) -> Part:
    from tilehires.upscalers.need import need

    taken = need(path, model.dtype)
    side = max(settings.memory.upscaler_tile, WHOLE_SIDE if taken.whole else 0)
    work = int(side**2 * taken.per_pixel)
    return Part("upscaler", taken.weights, (Demand(f"{path.name}, {side}x{side}", work, "memory.upscaler_tile", side),))


def _unet_demands(works: Iterable[Work], model: Model, *, guided: bool, nets: int) -> Iterable[Demand]:
    """Classifier-free guidance doubles every batch; a ControlNet's answers stay until the UNet has taken them."""
    guidance = " with guidance" if guided else ""
    for work in works:
        for size, batched, what, setting in (
            (work.tile, True, "tiles of", "tiled.tile_max"),
            (work.canvas, False, "a canvas of", "hires.max_canvas"),
        ):
            if size is not None:
                taken = _unet_bytes(size, model, guided=guided, nets=nets)
                yield Demand(f"{what} {size}{guidance}", taken, setting, size.long_side, batched)


def _unet_bytes(size: Size, model: Model, *, guided: bool, nets: int) -> int:
    """Of one call, for a piece of that many pixels."""
    cell = model.checkpoint.family.bytes_per_cell * model.dtype.itemsize / 2
    return int(size.pixels / model.checkpoint.vae_factor**2 * cell * (2 if guided else 1) * (1 + RESIDUALS * nets))


def _vae(vae: VaeAnatomy, settings: Settings, works: Iterable[Work], dtype: torch.dtype) -> Part:
    """Encode and decode: in one piece where the settings say so, else what is on the device of a larger canvas."""
    upcast = vae.upcast and dtype == torch.float16
    each = 4 if upcast else dtype.itemsize
    limit = settings.memory.vae_whole_max if settings.memory.vae in ("auto", "whole") else 0
    known = [(work.pixels, work.whole) for work in works if work.pixels is not None]
    whole = [size for size, in_one in known if in_one]
    pieces = [size for size, in_one in known if not in_one]
    if not known:
        whole = [_square(limit)] if limit else []
    demands = [
        Demand(
            f"{size} in one piece", size.pixels * vae.values_per_pixel * each, "memory.vae_whole_max", size.long_side
        )
        for size in whole
    ]
    if vae.tiny and (pieces or not known):
        side = TILE + 2 * HALO
        demands.append(Demand(f"tiles of {side}x{side}", side**2 * vae.values_per_pixel * each))
    elif pieces or not known:
        cells = max((size.pixels for size in pieces), default=0) // 4 ** (len(vae.channels) - 1)
        # Of the one attention layer all keys and values are there, and while they are joined once more.
        attention = 4 * cells * vae.channels[-1] * each
        demands.append(Demand("strips of a larger canvas", STRIPS * STRIP_BYTES + attention))
    # Where it is computed in another format, the weights are there in both.
    return Part("VAE", vae.parameters * (dtype.itemsize + (each if upcast else 0)), tuple(demands))


def _square(side: int) -> Size:
    return Size(side, side)
