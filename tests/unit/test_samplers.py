"""Sampler and schedule names, the pairs that can be run, and that every pair builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilehires.diffusion import samplers
from tilehires.errors import ConfigError, ExitCode

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading"}
PAIRS = [(s, w) for s in samplers.names() for w in samplers.schedules() if samplers.can_run(s, w)]


@pytest.mark.parametrize(
    ("sampler", "schedule", "want"),
    [
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("Euler", "Automatic", ("Euler", "Uniform")),
        ("dpm++ 2m", "karras", ("DPM++ 2M", "Karras")),
        (" Euler A ", "UNIFORM", ("Euler a", "Uniform")),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M SDE Karras", "Karras", ("DPM++ 2M SDE", "Karras")),
        ("DPM++ 2M SDE Exponential", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 2M SDE Heun Karras", "Automatic", ("DPM++ 2M SDE Heun", "Karras")),
        ("DPM++ SDE Karras", "Automatic", ("DPM++ SDE", "Karras")),
        ("LMS Karras", "Automatic", ("LMS", "Karras")),
        ("DPM2 a Karras", "Automatic", ("DPM2 a", "Karras")),
    ],
)
def test_names_in_any_case_and_old_ones_are_understood(sampler: str, schedule: str, want: tuple[str, str]) -> None:
    assert samplers.split(sampler, schedule) == want


@pytest.mark.parametrize("sampler", ["DPM fast", "DPM adaptive", "Restart", "DDIM CFG++", "Eular", ""])
def test_unknown_samplers_list_what_there_is(sampler: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samplers.split(sampler, "Automatic")
    assert all(name in caught.value.hint for name in samplers.names())
    assert caught.value.exit_code == ExitCode.USAGE
    if sampler == "Eular":
        assert "Did you mean 'Euler'?" in caught.value.hint


def test_unknown_schedules_list_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        samplers.split("Euler", "Kerras")
    assert "Did you mean 'Karras'?" in caught.value.hint


@pytest.mark.parametrize(
    ("sampler", "schedule"), [("Euler a", "Karras"), ("Euler a", "Beta"), ("DDIM", "Karras"), ("DPM++ SDE", "Simple")]
)
def test_pairs_that_cant_be_run_say_which_can(sampler: str, schedule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samplers.check(sampler, schedule)
    assert "Uniform" in caught.value.hint
    assert not samplers.can_run(sampler, schedule)


def test_a_name_that_carries_another_schedule_is_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="another"):
        samplers.split("DPM++ 2M Karras", "Exponential")


@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_pair_builds_and_steps(sampler: str, schedule: str, prediction: str) -> None:
    """From noise to the last step with a model that says nothing: finite numbers, of the shape that went in."""
    scheduler: Any = samplers.make(sampler, schedule, CONFIG | {"prediction_type": prediction})
    assert scheduler.config["prediction_type"] == prediction, "the model's own config must survive"
    assert scheduler.config["beta_end"] == 0.012
    scheduler.set_timesteps(8)
    assert float(scheduler.timesteps[0]) > float(scheduler.timesteps[-1])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        answer = scheduler.scale_model_input(x, t) * 0.5
        takes = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        x = scheduler.step(answer, t, x, **takes, return_dict=False)[0]
    assert x.shape == (1, 4, 8, 8)
    assert torch.isfinite(x).all(), f"{sampler} {schedule} gives NaN: its diffusers arguments don't go together"


@pytest.mark.parametrize(
    ("schedule", "key"),
    [("Karras", "use_karras_sigmas"), ("Exponential", "use_exponential_sigmas"), ("Beta", "use_beta_sigmas")],
)
@pytest.mark.parametrize("sampler", [s for s in samplers.names() if samplers.SAMPLERS[s].sigmas])
def test_a_schedule_sets_its_own_sigmas_only(sampler: str, schedule: str, key: str) -> None:
    """Also when the checkpoint's own scheduler config already asks for others: diffusers refuses two."""
    keys = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    for own in keys:
        config = samplers.make(sampler, schedule, CONFIG | {own: True}).config
        assert [name for name in keys if config[name]] == [key]


def test_the_schedules_differ() -> None:
    seen = set()
    for schedule in ("Uniform", "Karras", "Exponential", "Beta", "SGM Uniform"):
        scheduler = samplers.make("DPM++ 2M", schedule, CONFIG)
        scheduler.set_timesteps(8)
        seen.add(tuple(scheduler.timesteps.tolist()))
    assert len(seen) == 5


def test_the_table_holds_every_sampler_of_the_spec() -> None:
    spec = (
        "DPM++ 2M, DPM++ 2M SDE, DPM++ 2M SDE Heun, DPM++ 3M SDE, DPM++ SDE, DPM++ 2S a, Euler, Euler a, Heun, LMS, "
        "DPM2, DPM2 a, DDIM, PLMS, UniPC, LCM"
    )
    assert set(spec.split(", ")) <= set(samplers.names())
