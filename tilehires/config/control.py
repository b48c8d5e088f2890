"""ControlNets in the settings: one number for all of them, or one each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _listed(value: Any) -> Any:
    """One value, or "a,b" as a command line gives them, as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Scales = Annotated[tuple[Annotated[float, Field(ge=0, le=10)], ...], BeforeValidator(_listed), Field(min_length=1)]
Fractions = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_listed), Field(min_length=1)]

Module = Literal["none", "inpaint", "canny"]
Modules = Annotated[tuple[Module, ...], BeforeValidator(_listed), Field(min_length=1)]


class ControlNetUse(BaseModel):
    """One ControlNet of a pass. `module`: what it sees of the picture."""

    model_config = ConfigDict(frozen=True)

    path: str
    scale: float
    start: float
    end: float
    module: Module = "none"


def uses(
    paths: tuple[str, ...],
    scales: tuple[float, ...],
    starts: tuple[float, ...],
    ends: tuple[float, ...],
    modules: tuple[Module, ...] = ("none",),
) -> tuple[ControlNetUse, ...]:
    """Each ControlNet with its numbers; the last of a list counts for all that follow."""

    def at(values: tuple[Any, ...], i: int) -> Any:
        return values[min(i, len(values) - 1)]

    return tuple(
        ControlNetUse(path=path, scale=at(scales, i), start=at(starts, i), end=at(ends, i), module=at(modules, i))
        for i, path in enumerate(paths)
    )
