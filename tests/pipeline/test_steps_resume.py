"""A pass that is killed goes on after its last whole step, for every sampler, to the very same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tilehires.diffusion import samplers, sampling
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.inpaint import Inpaint
from tilehires.diffusion.noise import CanvasNoise
from tilehires.diffusion.prompts import Conditioning
from tilehires.diffusion.resume import HISTORY, NEVER, StepFile, can_resume
from tilehires.diffusion.sampling import Steps
from tilehires.errors import Interrupted
from tilehires.geometry import Size
from tilehires.tiling.engine import TiledDenoiser
from tilehires.tiling.grid import TileGrid, elastic_grid

CELLS = Size(16, 8)
LATENTS = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(1))


class Wavy:
    """A stand-in for a UNet and its VAE: cheap, not linear, and it counts its calls."""

    dtype = torch.float32

    def __init__(self) -> None:
        self.config = {"in_channels": 4, "latent_channels": 4, "block_out_channels": [1] * 4}
        self.calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **conditions: Any) -> tuple[torch.Tensor]:
        self.calls += 1
        return (torch.sin(x * 1.3 + 0.01 * t.float()) + 0.1 * x.roll(1, -1),)


class Killed(Exception):  # noqa: N818 - it stands for a signal
    """What no code of ours catches."""


SCHEDULER = tiny.sd15().scheduler.config


def ran(
    sampler: str,
    file: StepFile | None,
    *,
    die_after: int | None = None,
    error: type[BaseException] = Killed,
    steps: Steps | None = None,
    **options: Any,
) -> tuple[torch.Tensor, int]:
    """(latents, model calls) of a pass, which may be killed after some of them."""
    model = Wavy()

    def on_step(done: int, total: int, x: torch.Tensor) -> None:
        if done == die_after:
            raise error("stopped")

    arguments: dict[str, Any] = {"cfg": 1.0, "size": Size(128, 64), "noise": CanvasNoise(7, "hires"), **options}
    made = sampling.sample(
        Diffusion(model, model, (), (), SCHEDULER),
        Conditioning(torch.zeros(1, 77, 8), None, False),
        LATENTS,
        scheduler=samplers.make(sampler, "Automatic", SCHEDULER),
        steps=steps or Steps(9, 2),
        on_step=on_step,
        resume=file,
        **arguments,
    )
    return made.latents, model.calls


def files(path: Path, plan: str = "plan", every: float = 0) -> StepFile:
    """The same file as a new process has it."""
    return StepFile(path / "x.steps", plan, every)


@pytest.mark.parametrize("sampler", samplers.names())
def test_killed_after_any_step_it_goes_on_to_the_same_bytes(tmp_path: Path, sampler: str) -> None:
    want, calls = ran(sampler, None)
    assert torch.isfinite(want).all() and calls >= 7
    # Second-order samplers are slow to set up: every third call, so that both halves of a step have their turn.
    for done in range(1, calls + 1, 1 if calls == 7 else 5):
        with pytest.raises(Killed):
            ran(sampler, files(tmp_path), die_after=done)
        got, more = ran(sampler, files(tmp_path))
        assert more == calls - done, (
            f"{sampler}: after {done} of {calls} calls it should take the rest, and took {more}"
        )
        assert torch.equal(got, want), f"{sampler} killed after {done} of {calls}: resume.HISTORY lacks an attribute"
        (tmp_path / "x.steps").unlink()


def test_the_promise_to_users_names_every_sampler() -> None:
    assert {row.scheduler for row in samplers.SAMPLERS.values()} <= set(HISTORY)
    said = (Path(__file__).parents[2] / "docs" / "determinism.md").read_text(encoding="utf-8")
    for name in samplers.names():
        assert name.removeprefix("DPM++ ") in said, f"docs/determinism.md doesn't say whether {name} can go on"


def test_a_sampler_that_cant_go_on_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilehires.diffusion.resume.HISTORY", {})
    assert not can_resume(samplers.make("Euler", "Uniform", SCHEDULER))
    with pytest.raises(Killed):
        ran("Euler", files(tmp_path), die_after=3)
    assert not (tmp_path / "x.steps").exists()
    assert ran("Euler", files(tmp_path))[1] == 7


def part(seed: int = 3) -> Inpaint:
    mask = torch.zeros(1, 1, 8, 16)
    mask[..., 2:6, 3:9] = 1
    return Inpaint(mask, torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(seed)))


def test_inpainting_and_tiles_go_on_too(tmp_path: Path) -> None:
    options = {"inpaint": part(), "denoiser": TiledDenoiser(elastic_grid(CELLS, tile_max=8, overlap=0), 2)}
    want, calls = ran("Euler a", None, **options)
    with pytest.raises(Killed):
        ran("Euler a", files(tmp_path), die_after=4, **options)
    got, more = ran("Euler a", files(tmp_path), **options)
    assert torch.equal(got, want) and more == calls * 3 // 7


def test_only_the_very_same_pass_takes_the_state_up(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        ran("Euler a", files(tmp_path), die_after=5)
    grid = elastic_grid(CELLS, tile_max=8, overlap=0)
    others: list[dict[str, Any]] = [
        {"cfg": 1.5},
        {"noise": CanvasNoise(8, "hires")},
        {"name": "tiled.1: sampling"},
        {"steps": Steps(9, 3)},
        {"time_ids": "crop"},
        {"inpaint": part()},
        {"denoiser": TiledDenoiser(grid, 1)},
        {"denoiser": TiledDenoiser(TileGrid.whole(CELLS), 2)},
    ]
    for options in others:
        want = ran("Euler a", None, **options)
        assert ran("Euler a", files(tmp_path, every=600), **options)[1] == want[1], f"it took up another's: {options}"
    assert ran("Euler", files(tmp_path, every=600))[1] == 7, "another sampler's"
    assert ran("Euler a", files(tmp_path, plan="other settings", every=600))[1] == 7
    assert ran("Euler a", files(tmp_path, every=600))[1] == 2, "and its own it does"


def test_another_tile_batch_or_another_mask_begins_anew(tmp_path: Path) -> None:
    grid = elastic_grid(CELLS, tile_max=8, overlap=0)
    with pytest.raises(Killed):
        ran("Euler", files(tmp_path), die_after=5, denoiser=TiledDenoiser(grid, 2), inpaint=part())
    changed = {"denoiser": TiledDenoiser(grid, 1), "inpaint": part()}
    assert ran("Euler", files(tmp_path, every=600), **changed)[1] == 7 * len(grid.tiles)
    changed = {"denoiser": TiledDenoiser(grid, 2), "inpaint": part(seed=4)}
    assert ran("Euler", files(tmp_path, every=600), **changed)[1] == 7 * len(grid.tiles) // 2


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_state_costs_time_only(tmp_path: Path, harm: str) -> None:
    want, calls = ran("DPM++ 2M", None)
    with pytest.raises(Killed):
        ran("DPM++ 2M", files(tmp_path), die_after=4)
    path = tmp_path / "x.steps"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes({"cut": bytes(data[:-50]), "flip": bytes(data), "empty": b""}[harm])
    got, more = ran("DPM++ 2M", files(tmp_path))
    assert torch.equal(got, want) and more == calls


def test_a_short_pass_writes_nothing_and_a_long_one_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []

    def clock() -> float:
        now[0] += 10
        return now[0]

    monkeypatch.setattr("tilehires.diffusion.resume._packed", lambda state, key: written.append(state.done) or b"")
    ran("Euler", StepFile(tmp_path / "x.steps", "plan", 10_000, clock=clock))
    assert written == []
    ran("Euler", StepFile(tmp_path / "x.steps", "plan", 35, clock=clock))
    assert written == [4], "asked every 10 s: after 40 s, and again 40 s after that"
    ran("Euler", StepFile(tmp_path / "x.steps", "plan", NEVER, clock=clock))
    assert written == [4]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted])
def test_stopped_by_the_user_it_keeps_where_it_stood(tmp_path: Path, stop: type[BaseException]) -> None:
    want, calls = ran("DPM++ 2M SDE", None)
    with pytest.raises(stop):
        ran("DPM++ 2M SDE", files(tmp_path, every=600), die_after=3, error=stop)
    got, more = ran("DPM++ 2M SDE", files(tmp_path, every=600))
    assert torch.equal(got, want) and more == calls - 3
