"""ControlNets in our loop: as diffusers' own pipelines with one covering tile, and each tile its own part of the hint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import StableDiffusionControlNetImg2ImgPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import StableDiffusionXLControlNetImg2ImgPipeline

from tests import tiny, tiny_controlnets
from tests.batches import Workplace, draw, outputs, workplace
from tests.tiny import noise
from tilehires.diffusion import controlnets, prompts, samplers, sampling
from tilehires.diffusion.checkpoints import inspect
from tilehires.diffusion.control import Control
from tilehires.diffusion.noise import StockNoise
from tilehires.diffusion.sampling import Steps
from tilehires.errors import ExitCode, MissingError
from tilehires.geometry import Box, Size
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid, elastic_grid

SIZE = Size(64, 48)
KINDS = {"sd15": StableDiffusionControlNetImg2ImgPipeline, "sdxl": StableDiffusionXLControlNetImg2ImgPipeline}


class Family:
    """A tiny pipeline of a family, and two ControlNets for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pipe: Any = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}[name]()
        self.nets = tuple(tiny_controlnets.controlnet(self.pipe.unet, seed) for seed in (1, 2))

    def scheduler(self, sampler: str) -> Any:
        return samplers.make(sampler, "Automatic", self.pipe.scheduler.config)


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param)


def hint(seed: int = 1, size: Size = SIZE) -> torch.Tensor:
    return torch.rand(1, 3, size.height, size.width, generator=torch.Generator().manual_seed(seed))


def ours(family: Family, sampler: str, controls: Sequence[Control], **options: Any) -> torch.Tensor:
    model = tiny.parts(family.pipe)
    return sampling.sample(
        model,
        prompts.encode(model, "a cat", "blurry", guided=True),
        options.pop("latents", noise(1, 4, 6, 8, seed=1)),
        scheduler=family.scheduler(sampler),
        steps=options.pop("steps", Steps(6, 2)),
        cfg=7.0,
        noise=StockNoise(torch.Generator().manual_seed(5)),
        size=options.pop("size", SIZE),
        controls=controls,
        **options,
    ).latents


@pytest.mark.parametrize(
    ("sampler", "numbers"),
    [
        ("DPM++ 2M", [(1.0, 0.0, 1.0)]),
        ("Euler a", [(0.7, 0.0, 0.5)]),
        ("DPM++ 2M SDE", [(0.5, 0.25, 1.0)]),
        ("Heun", [(0.8, 0.2, 0.9)]),
        ("UniPC", [(0.6, 0.0, 1.0), (0.9, 0.0, 1.0)]),
        ("DDIM", [(0.6, 0.0, 0.6), (0.9, 0.3, 1.0)]),
    ],
)
def test_one_covering_tile_is_the_stock_pipelines_bit_for_bit(
    family: Family, sampler: str, numbers: list[tuple[float, float, float]]
) -> None:
    nets, hints = family.nets[: len(numbers)], [hint(1), hint(2)][: len(numbers)]
    many = len(numbers) > 1
    parts = {**family.pipe.components, "scheduler": family.scheduler(sampler)}
    parts["controlnet"] = MultiControlNetModel(list(nets)) if many else nets[0]
    stock = KINDS[family.name](**parts)
    stock.set_progress_bar_config(disable=True)
    scales, starts, ends = (list(column) if many else column[0] for column in zip(*numbers, strict=True))
    want = stock(
        prompt="a cat",
        negative_prompt="blurry",
        image=noise(1, 4, 6, 8, seed=1),
        control_image=hints if many else hints[0],
        width=SIZE.width,
        height=SIZE.height,
        strength=4 / 6 + 0.01,
        num_inference_steps=6,
        guidance_scale=7.0,
        controlnet_conditioning_scale=scales,
        control_guidance_start=starts,
        control_guidance_end=ends,
        output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images
    controls = [Control(net, own, *row) for net, own, row in zip(nets, hints, numbers, strict=True)]
    covering = TiledDenoiser(TileGrid.whole(Size(8, 6)))
    got = ours(family, sampler, controls, denoiser=covering)
    assert torch.isfinite(want).all()
    assert torch.equal(got, want), f"{sampler}: off by up to {(got - want).abs().max()}"
    assert not torch.equal(ours(family, sampler, ()), want), "the ControlNet must change something, or nothing is shown"


def test_every_tile_gets_its_own_part_of_the_hint(family: Family) -> None:
    seen: list[torch.Tensor] = []
    net = family.nets[0]
    handle = net.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["controlnet_cond"].clone()), with_kwargs=True
    )
    grid = elastic_grid(Size(24, 16), tile_max=16, overlap=4, multiple=8)
    whole = hint(3, Size(192, 128))
    ours(
        family,
        "Euler",
        [Control(net, whole)],
        latents=noise(1, 4, 16, 24, seed=1),
        steps=Steps(5, 4),
        size=Size(192, 128),
        denoiser=TiledDenoiser(grid, 2),
    )
    handle.remove()
    boxes = [tile.box.scale(8) for tile in grid.tiles]
    assert len(boxes) == 2 and len(seen) == 1
    want = [whole[(..., *box.slices)] for box in boxes] * 2  # unconditional entry, then conditional
    assert torch.equal(seen[0], torch.cat(want)), "a tile's hint must show the tile's own place"


def test_a_hint_that_ends_before_the_canvas_is_mirrored() -> None:
    whole = hint(4, Size(40, 24))
    control = Control(None, whole * 1.5 - 0.2)
    padded = torch.cat([whole, whole.flip(-1)[..., :24]], -1)
    padded = torch.cat([padded, padded.flip(-2)[..., :8, :]], -2)
    want = (padded * 1.5 - 0.2).clip(0, 1)
    for box in (Box(0, 0, 16, 16), Box(32, 16, 64, 32), Box(48, 24, 64, 32), Box(0, 0, 64, 32)):
        assert torch.equal(control.part(box), want[(..., *box.slices)])


@pytest.fixture(scope="module")
def checkpoint(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family.name)
    return tiny.write_single_file(family.pipe, folder / "model.safetensors")


def same(model: Any, net: ControlNetModel) -> bool:
    want, got = net.state_dict(), model.state_dict()
    return want.keys() == got.keys() and all(torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize("layout", ["folder", "diffusers", "original", "bare"])
def test_it_is_loaded_from_every_layout(family: Family, checkpoint: Path, tmp_path: Path, layout: Any) -> None:
    net, path = family.nets[0], tmp_path / "net.safetensors"
    if layout == "folder":
        net.save_pretrained(tmp_path / "net", safe_serialization=True)
        path = tmp_path / "net"
    else:
        tiny_controlnets.write(net, path, layout)
    found = controlnets.inspect(str(path), inspect(str(checkpoint)))
    loaded = controlnets.load(found, torch.float32)
    assert same(loaded, net)
    assert controlnets.parameters(found) == sum(weight.numel() for weight in net.parameters())
    x, t = noise(1, 4, 6, 8, seed=1), torch.tensor(500)
    model = tiny.parts(family.pipe)
    condition = prompts.encode(model, "a cat", guided=False)
    added = None
    if condition.pooled is not None:
        added = {"text_embeds": condition.pooled, "time_ids": torch.tensor([[48.0, 64, 0, 0, 48, 64]])}
    answers = [
        one(x, t, condition.embeds, hint(), added_cond_kwargs=added, return_dict=False)[1] for one in (loaded, net)
    ]
    assert torch.equal(*answers), "what no tensor's shape tells (heads, groups) must come from the checkpoint's UNet"


def test_what_doesnt_fit_is_refused_from_its_header(family: Family, checkpoint: Path, tmp_path: Path) -> None:
    known = inspect(str(checkpoint))
    other = {"sd15": tiny.sdxl, "sdxl": tiny.sd15}[family.name]()
    foreign = tiny_controlnets.controlnet(other.unet)
    foreign.save_pretrained(tmp_path / "foreign", safe_serialization=True)
    for path in (tmp_path / "foreign", tiny_controlnets.write(foreign, tmp_path / "f.safetensors", "diffusers")):
        with pytest.raises(MissingError, match="doesn't fit the checkpoint"):
            controlnets.inspect(str(path), known)
    with pytest.raises(MissingError, match="There is no ControlNet"):
        controlnets.inspect(str(tmp_path / "none.safetensors"), known)
    (tmp_path / "net.pth").write_bytes(b"\x80")
    with pytest.raises(MissingError, match="pickle"):
        controlnets.inspect(str(tmp_path / "net.pth"), known)
    with pytest.raises(MissingError, match="not a ControlNet"):
        controlnets.inspect(str(checkpoint), known)
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingError, match="config.json"):
        controlnets.inspect(str(tmp_path / "folder"), known)


def test_a_damaged_file_is_a_clear_error(family: Family, checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_controlnets.write(family.nets[0], tmp_path / "net.safetensors", "diffusers")
    state = load_file(path)
    del state["controlnet_mid_block.weight"]
    save_file(state, path)
    with pytest.raises(MissingError, match="can't be loaded"):
        controlnets.load(controlnets.inspect(str(path), inspect(str(checkpoint))), torch.float32)


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return workplace(tmp_path, capsys, monkeypatch)


def test_a_run_with_a_controlnet_end_to_end(place: Workplace) -> None:
    pipe = tiny.sd15()
    model = tiny.write_single_file(pipe, place.root / "model.safetensors")
    net = tiny_controlnets.write(tiny_controlnets.controlnet(pipe.unet), place.root / "net.safetensors", "original")
    draw(place.input / "a.png", 32, 32)
    words = ["--checkpoint", model, "--scale", "4", "--denoise", "0.5", "--steps", "2"]
    words += ["--set", "hires.upscaler=Lanczos", "--set", "hires.cfg=1"]
    with_net = [*words, "--set", f"tiled.controlnet={net}", "--set", "tiled.controlnet_scale=0.8"]
    assert place.run(*words, output=place.root / "plain").code == ExitCode.OK
    ended = place.run(*with_net)
    assert ended.code == ExitCode.OK, ended.err
    stages = {stage["name"]: stage["facts"] for stage in place.images()["a.png"]["stages"]}
    assert stages["hires"]["controlnets"] == [] and stages["tiled.1"]["controlnets"] == ["net.safetensors"]
    assert outputs(place.output) != outputs(place.root / "plain"), "the ControlNet had no part in the picture"

    assert place.run(*with_net, "--set", "tiled.controlnet_scale=0.4").code == ExitCode.OK
    assert place.cached_stages("a.png")["hires"] and not place.cached_stages("a.png")["tiled.1"]

    other = tiny_controlnets.write(
        tiny_controlnets.controlnet(tiny.sdxl().unet), place.root / "xl.safetensors", "diffusers"
    )
    ended = place.run(*words, "--set", f"tiled.controlnet={other}", output=place.root / "never")
    assert ended.code == ExitCode.MISSING and "doesn't fit the checkpoint" in ended.err
    assert not outputs(place.root / "never")


@pytest.mark.parametrize("redraw", ["linear", "fused"])
def test_what_hires_hands_down_works_in_every_mode_and_in_the_seam_fix(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, redraw: str
) -> None:
    pipe = tiny.sd15()
    model = tiny.write_single_file(pipe, place.root / "model.safetensors")
    net = tiny_controlnets.write(tiny_controlnets.controlnet(pipe.unet), place.root / "net.safetensors", "original")
    draw(place.input / "a.png", 64, 64)
    stock, controls = sampling.sample, []

    def noted(*given: Any, **named: Any) -> Any:
        controls.append(len(named["controls"]))
        return stock(*given, **named)

    monkeypatch.setattr(sampling, "sample", noted)
    words = ["--checkpoint", model, "--scale", "4", "--denoise", "0", "--steps", "1", "--set", "generate.cfg=1"]
    settings = f"""hires.upscaler=Lanczos hires.controlnet={net} check.enabled=false
        tiled.denoise=0.5 tiled.tile_min=64 tiled.tile_max=192 tiled.overlap=0 tiled.redraw={redraw}
        tiled.redraw_padding=8 tiled.seam_fix=band tiled.seam_width=16 tiled.seam_padding=8"""
    ended = place.run(*words, *(word for one in settings.split() for word in ("--set", one)))
    assert ended.code == ExitCode.OK, ended.err
    assert len(controls) > (4 if redraw == "linear" else 1), "nothing was redrawn in turn"
    assert set(controls) == {1}
