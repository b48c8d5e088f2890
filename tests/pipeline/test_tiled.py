"""`tiled(pipe)` on stock pipelines of every family: untouched outside, bit-identical in one tile, batches agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from tilehires.errors import ConfigError
from tilehires.tiling import tiled
from tilehires.tiling.adapters import ADAPTERS

D: Any = diffusers  # its lazy names and narrow annotations mean nothing to pyright


def vae(latent: int, scaling: float = 0.18215, **options) -> Any:
    return D.AutoencoderKL(
        latent_channels=latent,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling,
        **options,
    )


def embeds(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flow(dynamic: bool) -> Any:
    return D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)


@dataclass
class Case:
    """A stock pipeline without its text encoders, and what it is called with."""

    pipe: Any
    prompts: dict[str, Any]
    cells: int = 8  # pixels per cell
    tile: int = 16

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipe, "transformer", None) or self.pipe.unet

    def run(self, width: int = 256, height: int = 192, **options) -> np.ndarray:
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
        call = {"image": image, "width": width, "height": height, "strength": 0.6, "num_inference_steps": 4}
        if "unet" in self.pipe.components:
            del call["width"], call["height"]
        generator = torch.Generator().manual_seed(4)
        return self.pipe(**(call | self.prompts | options), generator=generator, output_type="latent").images


UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def sd15() -> Case:
    unet = D.UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16), cross_attention_dim=32, attention_head_dim=2, **UNET
    )
    pipe = D.StableDiffusionImg2ImgPipeline(
        vae=vae(4), text_encoder=None, tokenizer=None, unet=unet, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, scheduler=D.DDIMScheduler(steps_offset=1, clip_sample=False),
    )  # fmt: skip
    return Case(pipe, {"prompt_embeds": embeds(1, 1, 5, 32), "negative_prompt_embeds": embeds(2, 1, 5, 32)})


def sdxl() -> Case:
    unet = D.UNet2DConditionModel(
        block_out_channels=(8, 16), cross_attention_dim=32, attention_head_dim=2, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=8 * 6 + 32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **UNET,
    )  # fmt: skip
    pipe = D.StableDiffusionXLImg2ImgPipeline(
        vae=vae(4), text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
        scheduler=D.EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    return Case(
        pipe,
        {
            "prompt_embeds": embeds(1, 1, 5, 32),
            "negative_prompt_embeds": embeds(2, 1, 5, 32),
            "pooled_prompt_embeds": embeds(3, 1, 32),
            "negative_pooled_prompt_embeds": embeds(4, 1, 32),
        },
    )


def sd3() -> Case:
    transformer = D.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=32, pooled_projection_dim=64, out_channels=16, pos_embed_max_size=96,
    )  # fmt: skip
    nothing = dict.fromkeys(
        ["text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"]
    )
    pipe = D.StableDiffusion3Img2ImgPipeline(
        transformer=transformer, vae=vae(16, 1.5305, shift_factor=0.0609), scheduler=flow(False), **nothing
    )
    return Case(
        pipe,
        {
            "prompt_embeds": embeds(1, 1, 5, 32),
            "negative_prompt_embeds": embeds(2, 1, 5, 32),
            "pooled_prompt_embeds": embeds(3, 1, 64),
            "negative_pooled_prompt_embeds": embeds(4, 1, 64),
        },
    )


def flux() -> Case:
    transformer = D.FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    nothing = dict.fromkeys(["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"])
    pipe = D.FluxImg2ImgPipeline(
        transformer=transformer, vae=vae(16, 0.3611, shift_factor=0.1159), scheduler=flow(True), **nothing
    )
    return Case(
        pipe, {"prompt_embeds": embeds(1, 1, 5, 32), "pooled_prompt_embeds": embeds(3, 1, 32)}, cells=16, tile=8
    )


def zimage() -> Case:
    transformer = D.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[8, 4, 4], axes_lens=[256, 64, 64],
    )  # fmt: skip
    pipe = D.ZImageImg2ImgPipeline(
        transformer=transformer, vae=vae(16, 0.3611, shift_factor=0.1159), scheduler=flow(True), text_encoder=None,
        tokenizer=None,
    )  # fmt: skip
    return Case(
        pipe,
        {
            "prompt_embeds": [embeds(1, 5, 32)],
            "negative_prompt_embeds": [embeds(2, 7, 32)],
            "guidance_scale": 3.0,
            "prompt": None,
        },
    )


@pytest.fixture(params=[sd15, sdxl, sd3, flux, zimage])
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    made = request.param()
    made.pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def small() -> Case:
    torch.manual_seed(0)
    made = sd15()
    made.pipe.set_progress_bar_config(disable=True)
    return made


def close(a: Any, b: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0)


def test_one_covering_tile_is_the_stock_pipeline_bit_for_bit(case: Case) -> None:
    stock = case.run()
    with tiled(case.pipe, tile=256, overlap=8) as engine:
        assert torch.equal(torch.as_tensor(case.run()), torch.as_tensor(stock))
    assert engine.grid is not None and len(engine.grid.tiles) == 1


def test_batches_agree_and_nothing_stays_behind(case: Case) -> None:
    stock, before = case.run(), type(case.denoiser)
    results = []
    for batch in (1, 3, 8):
        with tiled(case.pipe, tile=case.tile, overlap=2, batch=batch) as engine:
            assert isinstance(case.denoiser, before) and type(case.denoiser).__name__ == before.__name__
            results.append(torch.as_tensor(case.run()))
        assert engine.grid is not None and len(engine.grid.tiles) >= 4
    close(results[1], results[0])
    close(results[2], results[0])
    assert not torch.equal(results[0], torch.as_tensor(stock)), "the tiles had no effect: was the engine called?"
    assert type(case.denoiser) is before and not [k for k in vars(case.denoiser) if "tilehires" in k]
    assert torch.equal(torch.as_tensor(case.run()), torch.as_tensor(stock))


def test_a_canvas_of_noise_with_a_pointwise_model_is_the_untiled_answer(case: Case) -> None:
    """The stand-in sits where offload hooks put theirs: on the instance's forward."""
    adapter = ADAPTERS[type(case.denoiser).__name__]()

    def forward(*args, **given) -> tuple[Any]:
        x = args[0] if args else given[adapter.canvas_name]
        return ([item * 0.3 for item in x] if isinstance(x, list) else x * 0.3,)

    vars(case.denoiser)["forward"] = forward
    if case.pipe.scheduler.config.get("use_dynamic_shifting"):
        case.pipe.scheduler.register_to_config(base_shift=1.0, max_shift=1.0)  # one shift for tile and canvas
    stock = case.run()
    with tiled(case.pipe, tile=case.tile, overlap=4, batch=3):
        close(case.run(), stock, 1e-5)


@pytest.mark.parametrize("make", [flux, zimage])
def test_the_shift_of_flow_matching_is_the_tiles(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    case, tokens_of_tile = make(), 8 * 8
    case.pipe.set_progress_bar_config(disable=True)
    case.run(128, 128)
    expected = case.pipe.scheduler.sigmas.clone()  # 128 px are 8×8 tokens: the shift of one tile
    case.run(256, 256)
    assert not torch.equal(case.pipe.scheduler.sigmas, expected)
    with tiled(case.pipe, tile=case.tile, overlap=2):
        case.run(256, 256)
        close(case.pipe.scheduler.sigmas, expected, 1e-6)
    assert "set_timesteps" not in vars(case.pipe.scheduler), f"the shift of {tokens_of_tile} tokens stayed behind"


def test_qwen_image_goes_by_its_shapes() -> None:
    torch.manual_seed(0)
    model = D.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    pipe = type("Pipe", (), {"transformer": model, "vae_scale_factor": 8})()
    arguments = {
        "hidden_states": embeds(1, 2, 24 * 16, 16),
        "encoder_hidden_states": embeds(2, 2, 5, 32),
        "encoder_hidden_states_mask": torch.ones(2, 5, dtype=torch.long),
        "timestep": torch.tensor([0.5, 0.5]),
        "img_shapes": [[(1, 24, 16)]] * 2,
    }
    with torch.no_grad():
        stock = model(**arguments).sample
        with tiled(pipe, tile=64, overlap=2):
            assert torch.equal(model(**arguments).sample, stock)
        with tiled(pipe, tile=12, overlap=2, batch=1) as engine:
            one = model(**arguments, return_dict=False)[0]
        with tiled(pipe, tile=12, overlap=2, batch=4):
            four = model(**arguments).sample
        assert engine.grid is not None and len(engine.grid.tiles) == 6
        close(four, one)
        edited = arguments | {"img_shapes": [[(1, 12, 16), (1, 12, 16)]] * 2}
        with tiled(pipe, tile=12, overlap=2), pytest.raises(ConfigError, match="beside the canvas"):
            model(**edited)


def test_a_canvas_that_is_no_multiple_is_padded_and_cropped(small: Case) -> None:
    latents = {}
    for tile in (64, 16):
        with tiled(small.pipe, tile=tile, overlap=4):
            latents[tile] = torch.as_tensor(small.run(200, 168))
    assert latents[16].shape == latents[64].shape == (1, 4, 21, 25)
    assert latents[16].isfinite().all()


@pytest.mark.parametrize(
    ("time_ids", "first", "last"),
    [
        ("tile", [128, 128, 0, 0, 128, 128], [128, 128, 0, 0, 128, 128]),
        ("global", [192, 256, 0, 0, 192, 256], [192, 256, 0, 0, 192, 256]),
        ("crop", [192, 256, 0, 0, 128, 128], [192, 256, 64, 128, 128, 128]),
    ],
)
def test_sdxl_is_told_of_tile_canvas_or_crop(time_ids: Any, first: list[int], last: list[int]) -> None:
    torch.manual_seed(0)
    case, seen = sdxl(), []

    def forward(sample, timestep, encoder_hidden_states, added_cond_kwargs, **_) -> tuple[torch.Tensor]:
        seen.append(added_cond_kwargs["time_ids"])
        return (sample,)

    vars(case.denoiser)["forward"] = forward
    with tiled(case.pipe, tile=16, overlap=0, batch=8, time_ids=time_ids):
        case.run()
    ids = seen[0].unflatten(0, (2, -1))  # guidance first, then the tiles
    assert torch.equal(ids[0], ids[1])
    assert ids[0, 0].tolist() == first and ids[0, -1].tolist() == last


def test_residuals_of_a_controlnet_are_those_of_the_tiles_place(small: Case) -> None:
    unet, places = small.pipe.unet, torch.arange(24 * 32.0).reshape(1, 1, 24, 32)
    levels = [places[..., ::s, ::s] for s in (1, 2, 4, 8)]

    def forward(sample, timestep, encoder_hidden_states, down_block_additional_residuals, **rest) -> tuple[Any]:
        for step, level in zip((1, 2, 4, 8), down_block_additional_residuals, strict=True):
            assert torch.equal(level, sample[..., ::step, ::step]), f"level {step} shows another place than its tile"
        assert torch.equal(rest["mid_block_additional_residual"], sample[..., ::8, ::8])
        return (sample,)

    vars(unet)["forward"] = forward
    with tiled(small.pipe, tile=16, overlap=4, batch=3):
        answer = unet(
            places, 1, encoder_hidden_states=embeds(0, 1, 5, 32), down_block_additional_residuals=levels,
            mid_block_additional_residual=levels[-1], return_dict=False,
        )[0]  # fmt: skip
    close(answer, places)


def test_offload_hooks_lora_and_compile_work_on_tiles(small: Case) -> None:
    with tiled(small.pipe, tile=16, overlap=4, batch=2):
        plain = small.run()
    small.pipe.enable_model_cpu_offload(device="cpu")
    with tiled(small.pipe, tile=16, overlap=4, batch=2):
        close(small.run(), plain)
    small.pipe.remove_all_hooks()

    stock, shapes = small.pipe.unet, set()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        return graph.forward

    small.pipe.unet = torch.compile(stock, backend=backend)
    stock.register_forward_pre_hook(lambda module, args: shapes.add(args[0].shape))
    with tiled(small.pipe, tile=16, overlap=4, batch=4):
        close(small.run(), plain)
    assert len(shapes) == 1, "a compiled model gets one shape of batch, the last one padded"
    assert type(small.pipe.unet).__name__ == "OptimizedModule"
    small.pipe.unet = stock

    from peft import LoraConfig

    lora = LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q"])
    stock.add_adapter(lora)
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    with tiled(small.pipe, tile=16, overlap=4, batch=2):
        assert not np.allclose(small.run(), plain, atol=1e-4), "the LoRA must act on tiles"


def test_an_exception_restores_and_a_second_entry_is_refused(small: Case) -> None:
    before = type(small.pipe.unet)
    with pytest.raises(ZeroDivisionError), tiled(small.pipe, tile=16, overlap=4):
        with pytest.raises(ConfigError, match="tiled already"), tiled(small.pipe, tile=16, overlap=4):
            pass
        assert type(small.pipe.unet) is not before, "the refused second entry must leave the first in place"
        raise ZeroDivisionError
    assert type(small.pipe.unet) is before


def test_one_subclass_serves_every_use(small: Case) -> None:
    seen = []
    for _ in range(2):
        with tiled(small.pipe, tile=16, overlap=4):
            seen.append(type(small.pipe.unet))
    assert seen[0] is seen[1], "a class per use would recompile compiled graphs"


def test_what_cannot_work_is_refused_on_entry(small: Case) -> None:
    for options, says in (
        ({"tile": 16, "overlap": 16}, "overlap"),
        ({"tile": 16, "overlap": 4, "batch": 0}, "batch = 0"),
        ({"tile": 0, "overlap": 0}, "tile = 0"),
        ({"tile": 16, "overlap": 4, "time_ids": "none"}, "time_ids"),
    ):
        with pytest.raises(ConfigError, match=says), tiled(small.pipe, **options):  # type: ignore[arg-type]
            pass
    with (
        pytest.raises(ConfigError, match="Linear"),
        tiled(type("P", (), {"unet": nn.Linear(1, 1)})(), tile=16, overlap=0),
    ):
        pass
    with pytest.raises(ConfigError, match="no denoiser"), tiled(object(), tile=16, overlap=0):
        pass
    masks = {"ip_adapter_masks": [torch.ones(1, 1, 8, 8)]}
    with tiled(small.pipe, tile=16, overlap=4), pytest.raises(ConfigError, match="IP-Adapter masks"):
        small.run(cross_attention_kwargs=masks)
