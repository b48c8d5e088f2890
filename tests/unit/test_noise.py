"""Noise: canvas-shaped, from the CPU, a function of (seed, pass, step) and of nothing else."""

from __future__ import annotations

import pytest
import torch

from tilehires.diffusion.noise import CanvasNoise, CutNoise, NoiseSource, StockNoise, derived_seed


def drawn(noise: NoiseSource, step: int, shape: tuple[int, ...] = (4, 8, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=noise.generator(step))


def test_the_noise_of_a_step_doesnt_depend_on_what_was_drawn_before() -> None:
    one, other = CanvasNoise(7, "hires"), CanvasNoise(7, "hires")
    for step in range(5):
        drawn(one, step)
    assert torch.equal(drawn(one, 5), drawn(other, 5)), "a pass must be able to go on from any step"
    assert torch.equal(one.start((1, 4, 8, 8)), other.start((1, 4, 8, 8)))


def test_seeds_passes_and_steps_have_noise_of_their_own() -> None:
    all_of_them = [
        drawn(CanvasNoise(seed, name), step)
        for seed in (0, 1, 2**63 - 1)
        for name in ("hires", "tiled.1", "tiled.2")
        for step in (-1, 0, 1)
    ]
    for i, one in enumerate(all_of_them):
        for other in all_of_them[:i]:
            correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
            assert abs(correlation) < 0.3, "the same noise twice makes blotches"


def test_the_starting_noise_is_unit_gaussian_on_the_cpu() -> None:
    noise = CanvasNoise(3, "hires").start((1, 4, 128, 128))
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02


def test_derived_seeds_are_fixed_for_all_time() -> None:
    """The rule is sha256("seed/pass/step"): a change here changes every image that was ever made with a seed."""
    assert derived_seed(0, "hires", -1) == derived_seed(0, "hires", -1)
    assert derived_seed(42, "tiled.1", 3) == 0x9B3C63D1E4D28E9
    seeds = {derived_seed(seed, name, step) for seed in range(20) for name in ("a", "b") for step in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds), "torch takes 63 bits"


@pytest.mark.parametrize("step", [0, 5])
def test_stock_noise_is_one_generator_drawn_from_in_turn(step: int) -> None:
    generator, plain = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    noise = StockNoise(generator)
    assert torch.equal(noise.start((2, 3)), torch.randn((2, 3), generator=plain))
    assert torch.equal(drawn(noise, step), torch.randn((4, 8, 8), generator=plain))


def test_a_pieces_noise_is_the_canvas_there_and_its_steps_are_its_own() -> None:
    canvas = CanvasNoise(7, "tiled.1").start((1, 4, 16, 16))
    one, other = (CutNoise(canvas[..., :8, x : x + 8], 7, f"tiled.1/{x}") for x in (0, 8))
    assert torch.equal(torch.cat([one.start((1, 4, 8, 8)), other.start((1, 4, 8, 8))], -1), canvas[..., :8, :])
    assert torch.equal(drawn(one, 3), drawn(CanvasNoise(7, "tiled.1/0"), 3))
    assert not torch.equal(drawn(one, 3), drawn(other, 3))
    with pytest.raises(ValueError, match="noise cut to"):
        one.start((1, 4, 8, 9))
