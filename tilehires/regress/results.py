"""What a run leaves for people and for CI: results.json, junit.xml, a self-contained page, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from tilehires.errors import ConfigError
from tilehires.files import atomic, write_json
from tilehires.regress.compare import difference
from tilehires.regress.page import page
from tilehires.regress.verdict import Result

VERSION = 1
RESULTS, PICTURES = "results.json", "images"
_NOT_IN_XML = {code: None for code in range(32) if code not in (9, 10, 13)}


def prepare(folder: Path) -> None:
    """Make the folder for results, before anything is rendered. Raises ConfigError where that can't be."""
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Results can't be written to {folder}: {error.strerror}.", hint="Name another folder with -o."
        ) from error


def write(folder: Path, suite: str, results: Sequence[Result]) -> Path:
    """Write everything under `folder`, replacing an earlier run's; returns the page's path."""
    pictures = folder / PICTURES
    for old in _pictures_of(folder):
        old.unlink(missing_ok=True)
    rows = []
    for result in results:
        row = result.to_json() | {"images": {}}
        for kind, pixels in _worth_keeping(result).items():
            name = f"{result.case}.{kind}.png"
            with atomic(pictures / name) as stream:
                stream.write(png(pixels))
            row["images"][kind] = name
        rows.append(row)
    body = {"version": VERSION, "suite": suite, "cases": rows}
    write_json(folder / RESULTS, body)
    return _put(folder, _rendered(folder, body))


def rewrite(folder: Path) -> Path:
    """Write junit.xml and the page anew from results.json. Raises ConfigError when there is none, or it can't be read."""
    try:
        body = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        if body["version"] != VERSION:
            raise ValueError(f"version {body['version']}")
        made = _rendered(folder, body)
    except FileNotFoundError as error:
        raise ConfigError(
            f"There are no results of this suite in {folder}.", hint="Run it first: tilehires regress run."
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{folder / RESULTS} can't be read ({type(error).__name__}: {error}).",
            hint="Run the suite again: tilehires regress run.",
        ) from error
    return _put(folder, made)


def _rendered(folder: Path, body: Mapping[str, Any]) -> Mapping[str, bytes]:
    """junit.xml and the page of a results.json, by file name."""
    return {
        "junit.xml": junit(str(body["suite"]), body["cases"]),
        "index.html": page(str(body["suite"]), body["cases"], folder / PICTURES),
    }


def _put(folder: Path, made: Mapping[str, bytes]) -> Path:
    """Write them; returns the page's path."""
    for name, content in made.items():
        with atomic(folder / name) as stream:
            stream.write(content)
    return folder / "index.html"


def _pictures_of(folder: Path) -> list[Path]:
    """The pictures that the results.json of an earlier run names; none where there is none that can be read."""
    try:
        rows = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["cases"]
        names = [name for row in rows for name in row["images"].values()]
        return [folder / PICTURES / Path(name).name for name in names]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # their pictures stay: better a few too many than somebody's own gone


def _worth_keeping(result: Result) -> dict[str, np.ndarray]:
    """The pictures worth keeping: all three of what failed, the new one of what passed."""
    kept: dict[str, np.ndarray] = {}
    if result.made is not None:
        kept["new"] = result.made
    if result.status != "pass" and result.reference is not None:
        kept["reference"] = result.reference
        if result.made is not None and result.made.shape == result.reference.shape:
            kept["difference"] = difference(result.made, result.reference)
    return kept


def png(pixels: np.ndarray) -> bytes:
    """Float RGB in [0, 1] as an 8-bit PNG."""
    levels = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    done, data = cv2.imencode(".png", levels[..., ::-1])
    if not done:
        raise ValueError(f"a picture of {pixels.shape} can't be a PNG")
    return data.tobytes()


def junit(suite: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JUnit XML: a test case per render, its metrics and limits as properties."""
    counts = {
        "tests": len(rows),
        "failures": sum(row["status"] in ("regression", "missing") for row in rows),
        "errors": sum(row["status"] == "crash" for row in rows),
    }
    root = ElementTree.Element("testsuites")
    total = sum(float(row["seconds"]) for row in rows)
    attributes = {"name": _plain(suite), "time": f"{total:.3f}", **{name: str(n) for name, n in counts.items()}}
    tests = ElementTree.SubElement(root, "testsuite", attributes)
    for row in rows:
        case = ElementTree.SubElement(
            tests,
            "testcase",
            {"classname": _plain(suite), "name": _plain(row["case"]), "time": f"{float(row['seconds']):.3f}"},
        )
        properties = ElementTree.SubElement(case, "properties")
        facts = {"environment": row["environment"], "identical": row["identical"]}
        facts |= row["values"] | {f"{name}.limit": limit for name, limit in row["limits"].items()}
        for name, value in facts.items():
            ElementTree.SubElement(properties, "property", {"name": name, "value": _plain(str(value))})
        if row["status"] != "pass":
            kind = "error" if row["status"] == "crash" else "failure"
            said = row["message"] or f"beyond the limit: {', '.join(row['failed'])}"
            problem = ElementTree.SubElement(case, kind, {"type": row["status"], "message": _plain(said)})
            problem.text = _plain("\n".join([said, *_figures(row)]))  # what GitLab and Jenkins show
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _figures(row: Mapping[str, Any]) -> list[str]:
    """A line for each metric beyond its limit, and for each setting that differs from the approved ones."""
    values, limits = row["values"], row["limits"]
    return [
        *(f"{name}: {values[name]:.4g}, limit {limits[name]:.4g}" for name in row["failed"] if name in values),
        *(f"{name}: {then} when approved, {now} now" for name, (then, now) in row["changed_settings"].items()),
    ]


def _plain(text: str) -> str:
    """Without what XML can't hold: control characters and unpaired surrogates."""
    return text.translate(_NOT_IN_XML).encode("utf-8", "replace").decode()
