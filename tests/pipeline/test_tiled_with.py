"""What else hangs on a pipeline keeps working on tiles: ControlNets, LoRA, offloading, low-precision storage, compiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests.families import UNET, Case, D, flux, flux2, quiet, sd3, sd15, sdxl
from tilehires.errors import ConfigError
from tilehires.tiling import tiled


@pytest.fixture
def small() -> Case:
    return quiet(sd15)


def in_tiles(case: Case, batch: int = 2) -> torch.Tensor:
    with tiled(case.pipe, tile=case.tile, overlap=4, batch=batch) as engine:
        made = case.run()
    assert engine.grid is not None and len(engine.grid.tiles) > 1
    return made


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# ControlNets: run by the pipeline on the whole canvas, their residuals cut


def sd15_controlled() -> Case:
    case = sd15()
    levels = {"block_out_channels": (8, 16, 16, 16), "cross_attention_dim": 32, "attention_head_dim": 2}
    unet = {key: UNET[key] for key in ("in_channels", "norm_num_groups", "layers_per_block")}
    control = D.ControlNetModel(conditioning_embedding_out_channels=(8, 8, 8, 8), **levels, **unet)
    case.pipe = D.StableDiffusionControlNetImg2ImgPipeline(
        **case.pipe.components, controlnet=control, requires_safety_checker=False
    )
    return hinted(case, "control_image")


def sdxl_controlled() -> Case:
    case = sdxl()
    config = {
        key: case.pipe.unet.config[key]
        for key in (
            *("in_channels", "norm_num_groups", "layers_per_block", "block_out_channels", "cross_attention_dim"),
            *("attention_head_dim", "addition_embed_type", "addition_time_embed_dim", "down_block_types"),
            "projection_class_embeddings_input_dim",
        )
    }
    control = D.ControlNetModel(conditioning_embedding_out_channels=(8, 8, 8, 8), **config)
    parts = {key: part for key, part in case.pipe.components.items() if key not in ("image_encoder",)}
    case.pipe = D.StableDiffusionXLControlNetImg2ImgPipeline(**parts, controlnet=control, add_watermarker=False)
    return hinted(case, "control_image")


def sd3_controlled() -> Case:
    case = sd3()
    control = D.SD3ControlNetModel.from_transformer(
        case.pipe.transformer, num_layers=1, num_extra_conditioning_channels=0
    )
    parts = {key: part for key, part in case.pipe.components.items() if key not in ("image_encoder",)}
    case.pipe = D.StableDiffusion3ControlNetPipeline(
        **{key: parts.get(key) for key in case.pipe._optional_components} | parts, controlnet=control
    )
    case.from_image = False
    return hinted(case, "control_image")


def flux_controlled() -> Case:
    case = flux()
    config = {key: value for key, value in case.pipe.transformer.config.items() if key not in ("out_channels",)}
    control = D.FluxControlNetModel.from_config(config)
    parts = {key: part for key, part in case.pipe.components.items() if key not in ("image_encoder",)}
    case.pipe = D.FluxControlNetImg2ImgPipeline(
        **{k: v for k, v in parts.items() if k != "feature_extractor"}, controlnet=control
    )
    return hinted(case, "control_image")


def hinted(case: Case, name: str) -> Case:
    """The hint as large as the canvas of Case.run, and ControlNets that say something (fresh ones end in zeros)."""
    case.prompts[name] = torch.rand(1, 3, 192, 256, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for parameter in case.pipe.controlnet.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8)) * 0.3)
    return case


CONTROLLED = [sd15_controlled, sdxl_controlled, sd3_controlled, flux_controlled]


@pytest.mark.parametrize("make", CONTROLLED)
def test_a_controlled_pipeline_is_the_stock_one_in_one_tile(make: Callable[[], Case]) -> None:
    case = quiet(make)
    stock = case.run()
    with tiled(case.pipe, tile=64, overlap=4):
        assert torch.equal(case.run(), stock)
    case.prompts["controlnet_conditioning_scale"] = 0.0
    assert not torch.equal(case.run(), stock), "the ControlNet says nothing: this shows nothing"


@pytest.mark.parametrize("make", CONTROLLED)
def test_residuals_are_cut_to_each_tile(make: Callable[[], Case]) -> None:
    """A stand-in whose answer is input plus residuals, cell by cell: in tiles it must be what it is on the canvas."""
    case = quiet(make)

    def on_cells(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """One number per cell of a residual of a coarser level."""
        if residual.ndim == 3 and x.ndim == 4:  # tokens of 2×2 latents
            height, width = x.shape[-2] // 2, x.shape[-1] // 2
            residual = residual.transpose(1, 2).unflatten(2, (height, width))
        spoken = residual.mean(2 if residual.ndim == 3 else 1, keepdim=True)
        return spoken if x.ndim == 3 else functional.interpolate(spoken, x.shape[-2:], mode="nearest")

    def forward(*args: Any, **given: Any) -> tuple[torch.Tensor]:
        x = args[0] if args else given["hidden_states"]
        names = (
            *("down_block_additional_residuals", "mid_block_additional_residual"),
            *("block_controlnet_hidden_states", "controlnet_block_samples", "controlnet_single_block_samples"),
        )
        answer = x * 0.3
        for name in names:
            said = given.get(name)
            for residual in [said] if isinstance(said, torch.Tensor) else said or ():
                answer = answer + 0.1 * on_cells(x, residual)
        return (answer,)

    vars(case.denoiser)["forward"] = forward
    case.pipe.scheduler.register_to_config(use_dynamic_shifting=False)  # one shift for tile and canvas
    stock = case.run()
    made = in_tiles(case, batch=3)
    assert not torch.equal(stock, case.run(controlnet_conditioning_scale=0.0))
    close(made, stock, 2e-6 * float(stock.abs().max()))


# What wraps or changes the module itself


def test_nine_channel_inpainting_is_cut_with_its_mask() -> None:
    case = quiet(sd15)
    torch.manual_seed(0)
    config = dict(case.pipe.unet.config) | {"in_channels": 9}
    case.pipe = D.StableDiffusionInpaintPipeline(
        **(case.pipe.components | {"unet": D.UNet2DConditionModel.from_config(config)}), requires_safety_checker=False
    )
    quiet(lambda: case)
    mask = torch.zeros(1, 1, 192, 256)
    mask[..., 40:120, 60:200] = 1
    case.prompts |= {"mask_image": mask, "width": 256, "height": 192}
    stock = case.run()
    with tiled(case.pipe, tile=64, overlap=4):
        assert torch.equal(case.run(), stock)

    seen = []

    def forward(sample: torch.Tensor, *args: Any, **given: Any) -> tuple[torch.Tensor]:
        seen.extend(mask.flatten().tolist() for mask in sample[:, 4])
        return (sample[:, :4] * 0.3 + sample[:, 4:5] - sample[:, 5:9],)

    vars(case.denoiser)["forward"] = forward
    stock = case.run()
    close(in_tiles(case), stock, 2e-6 * float(stock.abs().max()))
    assert any(0 < sum(mask) < len(mask) for mask in seen[-12:]), "tiles at the mask's edge see a part of it"


def test_a_lora_acts_on_tiles(small: Case) -> None:
    from peft import LoraConfig

    plain, unet = in_tiles(small), small.pipe.unet
    unet.add_adapter(LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q"]))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    stock, cut = small.run(), in_tiles(small)
    assert not torch.allclose(cut, plain, atol=1e-4), "the LoRA must act on tiles"
    with tiled(small.pipe, tile=64, overlap=4):
        assert torch.equal(small.run(), stock)
        unet.set_adapter([])  # switched off inside
        assert torch.equal(small.run(), quiet(sd15).run())


def test_models_are_offloaded_between_tiles(small: Case) -> None:
    plain = in_tiles(small)
    small.pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(in_tiles(small), plain)
    assert torch.equal(in_tiles(small), plain), "the hooks are still there after a first use"
    small.pipe.remove_all_hooks()
    for kind in ("leaf_level", "block_level"):
        case = quiet(sd15)
        case.pipe.unet.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type=kind,
            num_blocks_per_group=1,
        )
        assert torch.equal(in_tiles(case), plain), f"group offload, {kind}"


@pytest.mark.parametrize("make", [sd15, flux])
def test_weights_stored_in_eight_bits_are_widened_in_each_tile(make: Callable[[], Case]) -> None:
    case = quiet(make)
    plain = in_tiles(case)
    case.denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {p.dtype for p in case.denoiser.parameters()}
    assert torch.float8_e4m3fn in stored
    stock, cut = case.run(), in_tiles(case)
    with tiled(case.pipe, tile=64, overlap=2):
        assert torch.equal(case.run(), stock)
    assert cut.isfinite().all() and not torch.equal(cut, plain)
    assert {p.dtype for p in case.denoiser.parameters()} == stored


class Counting:
    """A compiler that runs a graph as it is, and counts graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("make", [sd15, flux])
def test_compiled_blocks_are_compiled_once_for_all_tiles(make: Callable[[], Case]) -> None:
    """Six tiles in batches of four: without padding the last two would ask for graphs of their own."""
    case, compiler = quiet(make), Counting()
    plain = in_tiles(case, batch=4)
    torch._dynamo.reset()
    case.denoiser.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=compiler)
    shapes = set()
    case.denoiser.register_forward_pre_hook(
        lambda module, args, given: shapes.add((args[0] if args else given["hidden_states"]).shape), with_kwargs=True
    )
    close(in_tiles(case, batch=4), plain, 5e-6)
    first = compiler.graphs
    assert first and len(shapes) == 1, "a compiled model gets one shape of batch, the last one padded"
    close(in_tiles(case, batch=4), plain, 5e-6)
    assert compiler.graphs == first, "a second use compiled anew"


def test_a_compiled_denoiser_is_reached_below_its_wrapper() -> None:
    case = quiet(flux)
    plain, stock, shapes = in_tiles(case, batch=4), case.denoiser, set()
    stock.register_forward_pre_hook(
        lambda module, args, given: shapes.add(given["hidden_states"].shape), with_kwargs=True
    )
    case.pipe.transformer = torch.compile(stock, backend=Counting())
    close(in_tiles(case, batch=4), plain)
    assert len(shapes) == 1
    assert type(case.pipe.transformer).__name__ == "OptimizedModule"


def test_places_of_flux2_are_those_of_the_tile() -> None:
    """Flux2: ids of every tile start at 0, for each of the tiles."""
    case, seen = quiet(flux2), []

    def forward(hidden_states: torch.Tensor, img_ids: torch.Tensor, **given: Any) -> tuple[torch.Tensor]:
        seen.append(img_ids)
        return (hidden_states * 0.3,)

    vars(case.denoiser)["forward"] = forward
    with tiled(case.pipe, tile=8, overlap=2, batch=3) as engine:
        case.run()
    assert engine.grid is not None
    tile = engine.grid.tile
    expected = torch.cartesian_prod(
        torch.arange(1), torch.arange(tile.height), torch.arange(tile.width), torch.arange(1)
    )
    for ids in seen:
        assert ids.shape == (3, tile.pixels, 4)
        assert all(torch.equal(entry, expected) for entry in ids)


def kontext() -> Case:
    case = flux()
    parts = {key: part for key, part in case.pipe.components.items() if key != "image_encoder"}
    case.pipe = D.FluxKontextPipeline(**parts)
    case.prompts |= {"image": torch.rand(1, 3, 192, 256), "_auto_resize": False}
    case.from_image = False
    return case


def flux2_with_a_reference() -> Case:
    case = flux2()
    case.prompts["image"] = Image.new("RGB", (256, 192), "red")
    return case


@pytest.mark.parametrize("make", [kontext, flux2_with_a_reference])
def test_reference_images_beside_the_canvas_are_refused(make: Callable[[], Case]) -> None:
    case = quiet(make)
    assert case.run().isfinite().all(), "without tiles it works"
    with tiled(case.pipe, tile=8, overlap=2), pytest.raises(ConfigError, match="beside the canvas") as error:
        case.run()
    assert "plain text or image pipeline" in error.value.hint
    assert case.run().isfinite().all()
