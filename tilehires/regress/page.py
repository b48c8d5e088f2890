"""The page of a suite's run: one HTML file, pictures inside, failures first, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilehires.regress.compare import METRICS

ORDER = {"crash": 0, "regression": 1, "missing": 2, "pass": 3}


def page(suite: str, rows: Sequence[Mapping[str, Any]], pictures: Path) -> bytes:
    """HTML from the rows of results.json; a picture that was removed since is left out, and said so."""
    # Imported here: commands that make no page shouldn't wait for jinja2.
    from jinja2 import Environment, StrictUndefined

    package = files("tilehires.regress")
    template = package.joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    cases = [_case(row, pictures) for row in sorted(rows, key=lambda row: (ORDER.get(row["status"], 0), row["case"]))]
    counts = {status: sum(row["status"] == status for row in rows) for status in ORDER}
    return environment.from_string(template).render(suite=suite, cases=cases, counts=counts).encode("utf-8")


def _case(row: Mapping[str, Any], pictures: Path) -> dict[str, Any]:
    images = {kind: _data_url(pictures / name) for kind, name in row["images"].items()}
    metrics = [
        {
            "name": metric.name,
            "meaning": metric.meaning,
            "value": f"{row['values'][metric.name]:.4g}",
            "limit": f"{'≥' if metric.higher else '≤'} {row['limits'][metric.name]:.4g}",
            "failed": metric.name in row["failed"],
        }
        for metric in METRICS
        if metric.name in row["values"]
    ]
    return {
        **row,
        "images": {k: url for k, url in images.items() if url},
        "metrics": metrics,
        "lost": None in images.values(),
    }


def _data_url(path: Path) -> str | None:
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None
