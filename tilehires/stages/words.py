"""Prompts of regions: ADetailer's [SEP], [PROMPT] and [SKIP]."""

from __future__ import annotations

import re


def given_out(text: str, main: str) -> tuple[str | None, ...]:
    """The parts of a prompt, one for each region in turn, the last for all that follow; None leaves the region out.

    [SEP] splits, [PROMPT] stands for the `main` prompt, [SKIP] alone is None; an empty part is the main prompt.
    """
    parts = (part.strip() for part in re.split(r"\s*\[SEP\]\s*", text))
    return tuple(None if part == "[SKIP]" else part.replace("[PROMPT]", main) if part else main for part in parts)


def of_region(parts: tuple[str | None, ...], order: int) -> str | None:
    """The part that the region number `order` gets."""
    return parts[min(order, len(parts) - 1)]
