"""Sampler and schedule names, the pairs that can be run, and that every pair builds."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules

from tilehires.diffusion import align_your_steps, samplers
from tilehires.errors import ConfigError, ExitCode

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading"}
PAIRS = [(s, w) for s in samplers.names() for w in samplers.schedules() if samplers.can_run(s, w)]


def lay_out(scheduler: Any, total: int) -> None:
    """The timesteps, as sampling sets them."""
    if not align_your_steps.lay_out(scheduler, total, "cpu"):
        scheduler.set_timesteps(total)


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
        ("dpmpp_2m_sde_gpu", "karras", ("DPM++ 2M SDE", "Karras")),
        ("euler_ancestral", "normal", ("Euler a", "Uniform")),
        ("k_dpm_2_a", "native", ("DPM2 a", "Karras")),
        ("uni_pc_bh2", "sgm_uniform", ("UniPC bh2", "SGM Uniform")),
        ("ddim", "ddim_uniform", ("DDIM", "DDIM")),
        ("DPM++ 2M Polyexponential", "Automatic", ("DPM++ 2M", "Exponential")),
        ("Euler Align Your Steps", "align_your_steps", ("Euler", "Align Your Steps")),
        ("DPM++ 2M SGM Uniform", "Automatic", ("DPM++ 2M", "SGM Uniform")),
        ("Euler", "ays", ("Euler", "Align Your Steps")),
    ],
)
def test_names_in_any_case_and_old_ones_are_understood(sampler: str, schedule: str, want: tuple[str, str]) -> None:
    assert samplers.split(sampler, schedule) == want


@pytest.mark.parametrize(
    "sampler", ["DPM fast", "DPM adaptive", "Restart", "DDIM CFG++", "dpm_adaptive", "ipndm", "Eular", ""]
)
def test_unknown_samplers_list_what_there_is(sampler: str) -> None:
    with pytest.raises(ConfigError) as caught:
        samplers.split(sampler, "Automatic")
    assert all(name in caught.value.hint for name in samplers.names())
    assert caught.value.exit_code == ExitCode.USAGE
    if sampler in samplers.UNSUPPORTED:
        assert f"{sampler} can't be run" in caught.value.message
    if sampler == "Eular":
        assert "Did you mean 'Euler'?" in caught.value.hint


def test_unknown_schedules_list_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        samplers.split("Euler", "Kerras")
    assert "Did you mean 'Karras'?" in caught.value.hint


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [("Euler a", "Karras"), ("Euler a", "Beta"), ("DDIM", "Karras"), ("DPM++ SDE", "Simple")]
    + [("Euler a", "Align Your Steps"), ("LCM", "DDIM")],
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
    lay_out(scheduler, 8)
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
    for schedule in ("Uniform", "Karras", "Exponential", "Beta", "SGM Uniform", "DDIM", "Align Your Steps"):
        scheduler = samplers.make("DPM++ 2M", schedule, {**CONFIG, "timestep_spacing": "linspace"})
        lay_out(scheduler, 8)
        seen.add(tuple(scheduler.timesteps.tolist()))
    assert len(seen) == 7


@pytest.mark.parametrize("total", [1, 2, 10, 11, 57, 300])
@pytest.mark.parametrize("family", align_your_steps.TABLES)
def test_align_your_steps_is_diffusers_table_and_between_its_points_interpolated(family: str, total: int) -> None:
    table = AysSchedules[align_your_steps.TABLES[family]]
    found = align_your_steps.timesteps(family, total)
    assert len(found) == total and found == sorted(set(found), reverse=True), "every step must go down"
    assert found[0] == table[0] and (total == 1 or found[-1] == table[-1])
    if total == 10:
        assert found == table


def test_align_your_steps_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match="1000 steps"):
        align_your_steps.timesteps("sdxl", 1000)
    with pytest.raises(ConfigError, match="family builtin"):
        samplers.check("Euler", "Align Your Steps", "builtin")
    assert not samplers.can_run("Euler", "Align Your Steps", "builtin")
    assert samplers.can_run("Euler", "Align Your Steps", "sdxl")


MULTISTEP = "DPMSolverMultistepScheduler"
SPEC: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M": (MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2}),
    "DPM++ 2M SDE": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_type": "midpoint", "solver_order": 2}),
    "DPM++ 2M SDE Heun": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    "DPM++ 3M SDE": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ 2S a": ("DPMSolverSinglestepScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "PLMS": ("PNDMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {"solver_type": "bh1", "solver_order": 3}),
    "LCM": ("LCMScheduler", {}),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "Beta": {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
}


@pytest.mark.parametrize("name", SPEC)
def test_every_sampler_of_the_spec_is_run_by_its_scheduler(name: str) -> None:
    scheduler, arguments = SPEC[name]
    made = samplers.make(name, "Uniform", CONFIG)
    assert type(made).__name__ == scheduler
    assert {key: made.config[key] for key in arguments} == arguments


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_of_the_spec_is_set_as_it_says(schedule: str) -> None:
    for name in (one for one in SPEC if samplers.follows(one, schedule)):
        made = samplers.make(name, schedule, CONFIG)
        # DPMSolverSinglestep has no choice of spacings: its timesteps always lie evenly from end to end.
        taken = SCHEDULES[schedule].keys() & inspect.signature(type(made).__init__).parameters.keys()
        assert taken and {key: made.config[key] for key in taken} == {key: SCHEDULES[schedule][key] for key in taken}


@pytest.mark.parametrize("schedule", ["Karras", "Exponential", "SGM Uniform", "Beta", "Simple"])
@pytest.mark.parametrize("sampler", SPEC)
def test_old_names_carry_the_schedule(sampler: str, schedule: str) -> None:
    if samplers.follows(sampler, schedule):
        assert samplers.split(f"{sampler} {schedule}", "Automatic") == (sampler, schedule)
    else:
        with pytest.raises(ConfigError, match="can't follow"):
            samplers.split(f"{sampler} {schedule}", "Automatic")


def test_what_the_spec_says_there_is_not_is_refused_by_name() -> None:
    assert {"DPM fast", "DPM adaptive", "Restart", "DDIM CFG++"} <= set(samplers.UNSUPPORTED)
    assert samplers.split("DPM++ 2M", "Automatic")[1] == "Karras"
    assert not any(samplers.follows("Euler a", one) for one in ("Karras", "Exponential", "Beta"))
