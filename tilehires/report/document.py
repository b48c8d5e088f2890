"""Reading report.json back, so that a page can be rebuilt without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilehires.errors import RunError
from tilehires.records import SCHEMA_VERSION

REBUILD = "Run `tilehires run` with the same input and output: what is done is kept, and the report is written anew."


def load(output: Path) -> dict[str, Any]:
    """Read output/report/report.json and check its shape.

    `output` is the folder that was given to `tilehires run -o`. Raises RunError when there is no report, when it can't
    be read, or when its schema version isn't ours.
    """
    path = output / "report" / "report.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"There is no report in {output}: {path} is missing.", hint=_where(output)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} can't be read: {error}.", hint=REBUILD) from error
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} isn't valid JSON: {error}.", hint=REBUILD) from error
    problem = _problem(body)
    if problem:
        raise RunError(f"{path} is no report of tilehires: {problem}.", hint=REBUILD)
    if body["version"] != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema version {body['version']!r}; this tilehires reads version {SCHEMA_VERSION}.",
            hint="Use the tilehires that wrote it, or run the batch again with this one.",
        )
    return body


def _where(output: Path) -> str:
    if (output / "report.json").is_file():
        return f"Give the output folder itself: tilehires report {output.parent}"
    return "Give the folder that `tilehires run` wrote to; the report is there after its first run."


def _problem(body: Any) -> str:
    """What is wrong with the document's shape, in words; empty when nothing is."""
    if not isinstance(body, dict):
        return "the document isn't an object"
    for key, kind in (("version", int), ("run", dict), ("summary", dict), ("images", list)):
        if key not in body:
            return f'"{key}" is missing'
        if not isinstance(body[key], kind):
            return f'"{key}" has the wrong type'
    for key in ("input_folder", "output_folder"):
        if not isinstance(body["run"].get(key, ""), str):
            return f'"{key}" of the run is no text'
    for number, image in enumerate(body["images"]):
        problem = _image_problem(image)
        if problem:
            return f"images[{number}]: {problem}"
    return ""


def _image_problem(image: Any) -> str:
    if not isinstance(image, dict):
        return "not an object"
    if not isinstance(image.get("id"), str):
        return '"id" is missing or no text'
    if image.get("status") not in ("done", "failed", "skipped"):
        return f'"status" is {image.get("status")!r}, not done, failed or skipped'
    for key in ("input", "output", "before"):
        if image.get(key) is not None and not _names_file(image[key]):
            return f'"{key}" names no file'
    if not isinstance(image.get("settings", {}), dict):
        return '"settings" has the wrong type'
    if not _all(image.get("notes", []), str):
        return '"notes" has the wrong type'
    for key in ("stages", "regions", "findings", "attempts"):
        if not _all(image.get(key, []), dict):
            return f'"{key}" has the wrong type'
    return ""


def _names_file(file: Any) -> bool:
    if not (isinstance(file, dict) and isinstance(file.get("path"), str)):
        return False
    size = file.get("size", [])
    return _all(size, int) and len(size) == 2


def _all(entries: Any, kind: type) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, kind) for entry in entries)
