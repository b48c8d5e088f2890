"""NVIDIA's Align Your Steps (Sabour et al. 2024, https://arxiv.org/abs/2404.14507): timesteps found by optimisation."""

from __future__ import annotations

from typing import Any

from tilehires.errors import ConfigError

TABLES = {"sd1": "StableDiffusionTimesteps", "sd2": "StableDiffusionTimesteps", "sdxl": "StableDiffusionXLTimesteps"}
"""By model family, the tables of diffusers' AysSchedules. There are none for other families."""
MARK = "align_your_steps"


def timesteps(family: str, total: int) -> list[int]:
    """`total` timesteps in falling order. Ten are the table's own; for other numbers it is interpolated along its index,
    as its makers propose (there in the logarithm of sigma, which between two of its points is near to linear in time).

    Raises ConfigError where so many don't fit between its last and its first.
    """
    import numpy as np
    from diffusers.schedulers.scheduling_utils import AysSchedules

    table = AysSchedules[TABLES[family]]
    if total == 1:
        return [table[0]]
    found = np.interp(np.linspace(0, len(table) - 1, total), range(len(table)), table).round().astype(int).tolist()
    if len(set(found)) < total:
        raise ConfigError(
            f"Align Your Steps can't be laid out in {total} steps.", hint="Take fewer steps, or more denoise."
        )
    return found


def mark(scheduler: Any, family: str) -> None:
    """Note in a scheduler's config that its timesteps are this family's; `lay_out` then sets them."""
    scheduler.register_to_config(**{MARK: family})


def lay_out(scheduler: Any, total: int, device: Any) -> bool:
    """Set the timesteps of a marked scheduler; False, and nothing done, for any other."""
    family = scheduler.config.get(MARK)
    if family is None:
        return False
    scheduler.set_timesteps(timesteps=timesteps(family, total), device=device)
    return True
