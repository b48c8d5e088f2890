"""The page of a sweep: all cells side by side, moved and zoomed together. One HTML file beside the pictures, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilehires.report.html import plain, render, replace, url
from tilehires.report.sheet import columns_of, labels_of, verdict_of

STYLES = ("base.css", "sweep.css")
SCRIPTS = ("elements.js", "cells.js", "sweep.js")


def write_sweep_page(body: Mapping[str, Any], folder: Path) -> Path:
    """Write folder/index.html from sweep.json's content (docs/sweep.md) and return its path.

    Text in it may be anything at all: it is shown, never interpreted. Raises OSError when it can't be written.
    """
    name = Path(body["input"]["path"]).name
    return replace(folder / "index.html", render("sweep.html.j2", STYLES, SCRIPTS, _data(body), name=name))


def _data(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script works on: plain JSON with ready-made URLs."""
    parent, _, name = body["input"]["path"].rpartition("/")
    settings = next((cell["settings"] for cell in body["cells"] if cell.get("settings")), {})
    chosen = {
        key: entry
        for key, entry in settings.items()
        if entry["origin"] not in ("default", "preset default") and not entry["origin"].startswith("--vary ")
    }
    return plain(
        {
            "name": name,
            "input": url(parent or ".", name),
            "columns": columns_of(body["axes"]),
            "settings": chosen,
            "cells": [_cell(cell) for cell in body["cells"]],
        }
    )


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    verdict, severity = verdict_of(cell)
    error = cell["error"]
    return {
        "labels": labels_of(cell["values"]),
        "status": cell["status"],
        "verdict": verdict,
        "severity": severity,
        "findings": [one for one in cell["findings"] if one["severity"] != "info"],
        "seconds": cell.get("seconds"),
        "seed": cell.get("seed"),
        "size": cell["output"]["size"] if cell["output"] else None,
        "url": url(".", cell["output"]["path"]) if cell["output"] else None,
        "error": f"{error['message']} {error['hint']}".strip() if error else None,
    }
