"""Samplers and noise schedules by AUTOMATIC1111's names, as diffusers schedulers. Names and pairs are checked without torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilehires.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampler:
    """One row of the table: the diffusers class, its arguments, the schedule that "Automatic" means, and whether others fit."""

    scheduler: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    automatic: str = "Uniform"
    sigmas: bool = True
    """Takes Karras, Exponential and Beta sigmas."""
    spacing: bool = True
    """Takes SGM Uniform and Simple, which are timestep spacings."""


_MULTISTEP = "DPMSolverMultistepScheduler"
SAMPLERS: Mapping[str, Sampler] = {
    "DPM++ 2M": Sampler(_MULTISTEP, {"algorithm_type": "dpmsolver++"}, "Karras"),
    "DPM++ 2M SDE": Sampler(_MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, "Exponential"),
    "DPM++ 2M SDE Heun": Sampler(
        _MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "Exponential"
    ),
    "DPM++ 3M SDE": Sampler(_MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "Exponential"),
    "DPM++ SDE": Sampler("DPMSolverSinglestepScheduler", {}, "Karras", spacing=False),
    "DPM++ 2S a": Sampler("DPMSolverSinglestepScheduler", {}, "Karras", spacing=False),
    "Euler": Sampler("EulerDiscreteScheduler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", sigmas=False),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "DPM2": Sampler("KDPM2DiscreteScheduler", {}, "Karras"),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler", {}, "Karras"),
    # Latents aren't bounded by 1, which is what DDIMScheduler takes for granted where a config doesn't say.
    "DDIM": Sampler("DDIMScheduler", {"clip_sample": False}, sigmas=False),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}, sigmas=False),
    # bh1 divides by the step's width in log-SNR, infinite where the noise ends at zero: it gives NaN there.
    "UniPC": Sampler(
        "UniPCMultistepScheduler", {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    ),
    "LCM": Sampler("LCMScheduler", sigmas=False, spacing=False),
}
NEAR = {
    "DPM++ 2S a": "DPM++ 2S a has no equal in diffusers; DPMSolverSinglestep, which is near it, is used.",
    "DPM++ SDE": "DPM++ SDE is run by DPMSolverSinglestep, its nearest kin in diffusers.",
}

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "Uniform": {},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "Beta": {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
}
_SIGMAS = ("Karras", "Exponential", "Beta")
_SPACINGS = ("SGM Uniform", "Simple")
# A scheduler's own config may already hold one of these; exactly one may be set.
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}


def names() -> tuple[str, ...]:
    """All samplers, in the order of the table."""
    return tuple(SAMPLERS)


def schedules() -> tuple[str, ...]:
    """All schedules, "Automatic" first."""
    return ("Automatic", *SCHEDULES)


def split(sampler: str, schedule: str) -> tuple[str, str]:
    """Canonical (sampler, schedule) of names in any case, old ones included: "dpm++ 2m karras" is DPM++ 2M with Karras.

    Automatic becomes what it stands for. Raises ConfigError for a sampler or schedule that there isn't, or a pair that
    can't be run.
    """
    known, lists = {name.lower(): name for name in SAMPLERS}, {name.lower(): name for name in schedules()}
    wanted = sampler.strip().lower()
    if wanted not in known:
        head, _, tail = wanted.rpartition(" ")
        if head in known and tail in lists and tail != "automatic":
            if schedule.lower() not in ("automatic", tail):
                raise ConfigError(
                    f"Sampler {sampler!r} carries a schedule, and schedule {schedule!r} is another.",
                    hint=f'Say sampler = "{known[head]}", scheduler = "{schedule}".',
                )
            wanted, schedule = head, tail
    if wanted not in known:
        raise ConfigError(f"There is no sampler {sampler!r}.", hint=_list("samplers", sampler, names()))
    if schedule.strip().lower() not in lists:
        raise ConfigError(f"There is no schedule {schedule!r}.", hint=_list("schedules", schedule, schedules()))
    name, way = known[wanted], lists[schedule.strip().lower()]
    row = SAMPLERS[name]
    if way == "Automatic":
        way = row.automatic
    if (way in _SIGMAS and not row.sigmas) or (way in _SPACINGS and not row.spacing):
        fitting = [
            one for one in SCHEDULES if (one not in _SIGMAS or row.sigmas) and (one not in _SPACINGS or row.spacing)
        ]
        raise ConfigError(
            f"Sampler {name} can't follow the schedule {way}.", hint=f"It can follow: {', '.join(fitting)}."
        )
    return name, way


def check(sampler: str, schedule: str) -> None:
    """Raise ConfigError where `make` would."""
    split(sampler, schedule)


def can_run(sampler: str, schedule: str) -> bool:
    """Whether `make` knows the pair."""
    try:
        split(sampler, schedule)
    except ConfigError:
        return False
    return True


def make(sampler: str, schedule: str, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler for that pair, on the model's own scheduler `config` (its betas, prediction type, …).

    Raises ConfigError as `split`.
    """
    import diffusers

    name, way = split(sampler, schedule)
    row = SAMPLERS[name]
    arguments = {**_PLAIN, **row.arguments, **SCHEDULES[way]} if row.sigmas else {**row.arguments, **SCHEDULES[way]}
    return getattr(diffusers, row.scheduler).from_config(dict(config), **arguments)


def _list(what: str, asked: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(asked.lower(), [one.lower() for one in known], n=1)
    meant = next((f"Did you mean {one!r}? " for one in known if near and one.lower() == near[0]), "")
    return f"{meant}The {what} are: {', '.join(known)}."
