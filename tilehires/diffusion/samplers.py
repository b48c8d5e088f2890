"""Samplers and noise schedules by AUTOMATIC1111's names, as diffusers schedulers. Names and pairs are checked without torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilehires.diffusion import align_your_steps
from tilehires.errors import ConfigError
from tilehires.metadata.names import SAMPLERS as OTHER_NAMES
from tilehires.metadata.names import SCHEDULES as OTHER_SCHEDULES


@dataclass(frozen=True, slots=True)
class Sampler:
    """One row of the table: the diffusers class, its arguments, the schedule that "Automatic" means, and whether others fit."""

    scheduler: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    automatic: str = "Uniform"
    sigmas: bool = True
    """Takes Karras, Exponential and Beta sigmas."""
    spacing: bool = True
    """Takes SGM Uniform, Simple and DDIM, which are timestep spacings."""
    listed: bool = False
    """Takes Align Your Steps, which is a list of timesteps."""


_MULTISTEP = "DPMSolverMultistepScheduler"
SAMPLERS: Mapping[str, Sampler] = {
    "DPM++ 2M": Sampler(_MULTISTEP, {"algorithm_type": "dpmsolver++"}, "Karras", listed=True),
    "DPM++ 2M SDE": Sampler(_MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, "Exponential", listed=True),
    "DPM++ 2M SDE Heun": Sampler(
        _MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "Exponential", listed=True
    ),
    "DPM++ 3M SDE": Sampler(
        _MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "Exponential", listed=True
    ),
    "DPM++ SDE": Sampler("DPMSolverSinglestepScheduler", {}, "Karras", spacing=False),
    "DPM++ 2S a": Sampler("DPMSolverSinglestepScheduler", {}, "Karras", spacing=False),
    "Euler": Sampler("EulerDiscreteScheduler", listed=True),
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
    "UniPC bh2": Sampler(
        "UniPCMultistepScheduler", {"solver_type": "bh2", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    ),
    "DEIS": Sampler("DEISMultistepScheduler"),
    "DDPM": Sampler("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}, sigmas=False),
    "LCM": Sampler("LCMScheduler", sigmas=False, spacing=False),
    "TCD": Sampler("TCDScheduler", sigmas=False, spacing=False),
}
ALIASES: Mapping[str, str] = {
    **OTHER_NAMES,
    **{f"k_{name}": known for name, known in OTHER_NAMES.items()},
}
"""Names of other tools, in lower case (metadata/names.py says whose), and the row that each means."""
UNSUPPORTED: Mapping[str, str] = {
    "DPM fast": "",
    "DPM adaptive": "it chooses its own number of steps, which hires passes can't do",
    "Restart": "",
    "DDIM CFG++": "",
    "Euler CFG++": "",
    "Euler a CFG++": "",
    "Heun++ 2": "",
    "IPNDM": "",
    "IPNDM_V": "",
}
"""What other tools have and diffusers has no equal of, and why where there is a reason of its own."""
NOTES = {
    "DPM++ 2S a": "DPM++ 2S a has no equal in diffusers; DPMSolverSinglestep, which is near it, is used.",
    "DPM++ SDE": "DPM++ SDE is run by DPMSolverSinglestep, its nearest kin in diffusers.",
    "LCM": (
        "LCM in a hires pass takes the last of its timesteps, exactly as many as asked for; where steps ÷ denoise is more than "
        "the 50 it was distilled on, its schedule has as many."
    ),
}
"""What there is to know of single samplers."""

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "Uniform": {},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "Beta": {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "DDIM": {"timestep_spacing": "leading", "steps_offset": 1},
    "Align Your Steps": {},
}
SCHEDULE_ALIASES: Mapping[str, str] = {
    **OTHER_SCHEDULES,
    "polyexponential": "Exponential",  # with rho 1, which is what everybody's default is, the two are one
    "ays": "Align Your Steps",
}
_SIGMAS = ("Karras", "Exponential", "Beta")
_SPACINGS = ("SGM Uniform", "Simple", "DDIM")
# A scheduler's own config may already hold one of these; exactly one may be set.
_PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}


def names() -> tuple[str, ...]:
    """All samplers, in the order of the table."""
    return tuple(SAMPLERS)


def schedules() -> tuple[str, ...]:
    """All schedules, "Automatic" first."""
    return ("Automatic", *SCHEDULES)


def follows(sampler: str, schedule: str) -> bool:
    """Whether a sampler of the table can follow a schedule of the table."""
    row = SAMPLERS[sampler]
    return (
        (schedule not in _SIGMAS or row.sigmas)
        and (schedule not in _SPACINGS or row.spacing)
        and (schedule != "Align Your Steps" or row.listed)
    )


def split(sampler: str, schedule: str, family: str = "") -> tuple[str, str]:
    """Canonical (sampler, schedule) of names in any case, old ones included: "dpm++ 2m karras" is DPM++ 2M with Karras,
    and so is ComfyUI's "dpmpp_2m" with "karras".

    Automatic becomes what it stands for. Raises ConfigError for a sampler or schedule that there isn't, a pair that can't
    be run, or a schedule that the model `family` ("": not known) has none of.
    """
    known = {name.lower(): name for name in SAMPLERS}
    known = {alias: name for alias, name in ALIASES.items() if name in SAMPLERS} | known
    lists = {alias: name for alias, name in SCHEDULE_ALIASES.items() if name in schedules()}
    lists |= {name.lower(): name for name in schedules()}
    wanted = sampler.strip().lower()
    if wanted not in known:
        tails = [tail for tail in lists if wanted.endswith(" " + tail) and wanted[: -len(tail) - 1] in known]
        if tails and tails[0] != "automatic":
            head, tail = wanted[: -len(tails[0]) - 1], tails[0]
            if lists.get(schedule.strip().lower(), schedule) not in ("Automatic", lists[tail]):
                raise ConfigError(
                    f"Sampler {sampler!r} carries a schedule, and schedule {schedule!r} is another.",
                    hint=f'Say sampler = "{known[head]}", scheduler = "{schedule}".',
                )
            wanted, schedule = head, tail
    if wanted not in known:
        raise _no_sampler(sampler)
    if schedule.strip().lower() not in lists:
        raise ConfigError(f"There is no schedule {schedule!r}.", hint=_list("schedules", schedule, schedules()))
    name, way = known[wanted], lists[schedule.strip().lower()]
    row = SAMPLERS[name]
    if way == "Automatic":
        way = row.automatic
    if not follows(name, way):
        fitting = [one for one in SCHEDULES if follows(name, one)]
        raise ConfigError(
            f"Sampler {name} can't follow the schedule {way}.", hint=f"It can follow: {', '.join(fitting)}."
        )
    if way == "Align Your Steps" and family and family not in align_your_steps.TABLES:
        raise ConfigError(
            f"There is no Align Your Steps for models of the family {family}.",
            hint=f"It is for {', '.join(align_your_steps.TABLES)}; choose another schedule, such as Karras.",
        )
    return name, way


def _no_sampler(asked: str) -> ConfigError:
    meant = next((n for n in UNSUPPORTED if n.lower() == ALIASES.get(asked.strip().lower(), asked.strip()).lower()), "")
    if not meant:
        return ConfigError(f"There is no sampler {asked!r}.", hint=_list("samplers", asked, names()))
    why = UNSUPPORTED[meant] or "diffusers has none that equals it"
    return ConfigError(f"The sampler {meant} can't be run: {why}.", hint=f"The samplers are: {', '.join(names())}.")


def check(sampler: str, schedule: str, family: str = "") -> None:
    """Raise ConfigError where `make` would."""
    split(sampler, schedule, family)


def can_run(sampler: str, schedule: str, family: str = "") -> bool:
    """Whether `make` knows the pair."""
    try:
        split(sampler, schedule, family)
    except ConfigError:
        return False
    return True


def make(sampler: str, schedule: str, config: Mapping[str, Any], family: str = "sd1") -> Any:
    """A fresh diffusers scheduler for that pair, on the model's own scheduler `config` (its betas, prediction type, …).
    The model's `family` counts for Align Your Steps alone.

    Raises ConfigError as `split`.
    """
    import diffusers

    name, way = split(sampler, schedule, family)
    row = SAMPLERS[name]
    arguments = {**_PLAIN, **row.arguments, **SCHEDULES[way]} if row.sigmas else {**row.arguments, **SCHEDULES[way]}
    scheduler = getattr(diffusers, row.scheduler).from_config(dict(config), **arguments)
    if way == "Align Your Steps":
        align_your_steps.mark(scheduler, family)
    return scheduler


def _list(what: str, asked: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(asked.lower(), [one.lower() for one in known], n=1)
    meant = next((f"Did you mean {one!r}? " for one in known if near and one.lower() == near[0]), "")
    return f"{meant}The {what} are: {', '.join(known)}."
