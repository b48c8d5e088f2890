"""Files that a report names and that were moved or deleted since."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any


def missing(
    image: Mapping[str, Any], folder: Path, run: Mapping[str, Any], elsewhere: Container[str] = ()
) -> tuple[str, ...]:
    """Of an image of report.json "input", "output", or both, where they aren't there.

    `folder`: the report's, which the folders in `run` are relative to. What was never made, or never read, isn't missing.
    `elsewhere`: outputs that needn't lie in the folder.
    """
    roots = {"input": run.get("input_folder"), "output": run.get("output_folder", "..")}
    return tuple(
        name
        for name, root in roots.items()
        if root is not None
        and _gone(image.get(name) or {}, folder / root)
        and not (name == "output" and image[name]["path"] in elsewhere)
    )


def _gone(file: Mapping[str, Any], root: Path) -> bool:
    try:
        return bool(file.get("sha256")) and not (root / file["path"]).is_file()
    except OSError:  # a name that this file system can't have
        return True


def in_words(names: tuple[str, ...]) -> str:
    """A sentence about them; empty where nothing is missing."""
    if not names:
        return ""
    return f"The {' and the '.join(names)} {'is' if len(names) == 1 else 'are'} gone: moved or deleted since."
