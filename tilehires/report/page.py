"""The page: report.json's content, style and scripts in one HTML file. No network, no other files but previews."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tilehires.images import MAX_PIXELS, Decoder, Isolated
from tilehires.report.thumbs import remove_others, thumbnail

SCRIPTS = ("viewer.js", "panel.js", "marks.js", "page.js")
EXACT_IN_JAVASCRIPT = 2**53


def write_page(report: Mapping[str, Any], output: Path, decoder: Decoder | None = None) -> Path:
    """Write output/report/index.html from a report (report.json's schema, version 1) and return its path.

    Makes the missing previews under output/report/thumbs/ and removes those no image uses. Pictures are linked by
    `run.input_folder` and `run.output_folder`, relative to output/report or absolute; without an input folder the page
    shows no before pictures, and says so. Text in the report may be anything at all: it is shown, never interpreted.
    A file that is missing or can't be decoded costs its preview, nothing else. Raises OSError when the page can't be
    written. `decoder`: what makes the previews; None: a process of its own.
    """
    folder = output / "report"
    folder.mkdir(parents=True, exist_ok=True)
    if decoder is None:
        with Isolated() as isolated:
            data = page_data(report, folder, isolated)
    else:
        data = page_data(report, folder, decoder)
    remove_others(folder / "thumbs", (image["thumb"].rpartition("/")[2] for image in data["images"] if image["thumb"]))
    return _replace(folder / "index.html", _html(data))


def page_data(report: Mapping[str, Any], folder: Path, decoder: Decoder) -> dict[str, Any]:
    """What the page's script works on: plain JSON with ready-made URLs, equal settings stored once.

    Makes the previews, in `folder`/thumbs.
    """
    run = report["run"]
    inputs, outputs = run.get("input_folder"), run.get("output_folder", "..")
    common = next((image["settings"] for image in report["images"] if image.get("settings")), {})
    images = [_image(image, folder, inputs, outputs, common, decoder) for image in report["images"]]
    return _plain(
        {
            "run": {key: value for key, value in run.items() if key not in ("input_folder", "output_folder")},
            "summary": report["summary"],
            "counts": _counts(report["images"]),
            "has_inputs": inputs is not None,
            "settings": common,
            "images": images,
        }
    )


def _image(
    image: Mapping[str, Any],
    folder: Path,
    inputs: str | None,
    outputs: str,
    common: Mapping[str, Any],
    decoder: Decoder,
) -> dict[str, Any]:
    source, result, kept = image.get("input"), image.get("output"), image.get("before")
    before = _url(inputs, source["path"]) if source and inputs is not None else None
    settings = image.get("settings", {})
    shown, root = (result, outputs) if result else (source, inputs)
    thumb = None
    if shown and shown.get("sha256") and root is not None:
        width, height = shown["size"]
        most = max(MAX_PIXELS, width * height)  # a run's own limit, which made it, may have been higher
        thumb = thumbnail(folder / root / shown["path"], shown["sha256"], folder / "thumbs", decoder, max_pixels=most)
    return {
        "id": image["id"],
        "anchor": "image/" + _quoted(image["id"]),
        "status": image["status"],
        "cached": bool(image.get("cached")),
        "flagged": bool(image.get("flagged")),
        "score": image.get("score"),
        "error": image.get("error"),
        "seed": image.get("seed"),
        "input": source,
        "output": result,
        "first_pass": kept,
        "before": _url(outputs, kept["path"]) if kept else before,
        "after": _url(outputs, result["path"]) if result else None,
        "thumb": f"thumbs/{thumb}" if thumb else None,
        "settings": {key: entry for key, entry in settings.items() if common.get(key) != entry},
        "unset": [key for key in common if key not in settings],
        "stages": image.get("stages", []),
        "regions": image.get("regions", []),
        "findings": image.get("findings", []),
        "notes": image.get("notes", []),
        "review": image.get("review", ""),
    }


def _counts(images: list[Mapping[str, Any]]) -> dict[str, int]:
    """How many images each filter of the page shows."""
    return {
        "all": len(images),
        "failed": sum(image["status"] == "failed" for image in images),
        "flagged": sum(bool(image.get("flagged")) for image in images),
        "done": sum(image["status"] == "done" for image in images),
        "cached": sum(bool(image.get("cached")) for image in images),
        "skipped": sum(image["status"] == "skipped" for image in images),
    }


def _url(folder: str, path: str) -> str:
    """A link to a file, percent-encoded: it holds no character that HTML or a URL scheme gives a meaning."""
    start = Path(folder)
    base = start.as_uri() if start.is_absolute() else _quoted(start.as_posix())
    return f"{base}/{_quoted(path)}"


def _quoted(path: str) -> str:
    # fsencode: a name that isn't UTF-8 reaches Python as surrogates, and its bytes are what the link must hold.
    return quote(os.fsencode(path), safe="/")


def _plain(value: Any) -> Any:
    """The same value in JSON that a browser parses without loss: no NaN, no integer beyond 2^53 (seeds are 63 bits)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > EXACT_IN_JAVASCRIPT:
        return str(value)
    return value


def _html(data: Mapping[str, Any]) -> bytes:
    # Imported here: commands that make no page shouldn't wait for jinja2.
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = files("tilehires.report")
    style = package.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(package.joinpath("page.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        counts=data["counts"],
        data=Markup(_script_json(data)),
        style=Markup(style),
        script=Markup(script),
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
    )
    return html.encode("utf-8")


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: ASCII, and no character that could end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _content_hash(text: str) -> str:
    """The name a Content-Security-Policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _replace(path: Path, content: bytes) -> Path:
    """Write a file at once: a browser that reloads meanwhile sees the old page or the new one."""
    handle, temporary = tempfile.mkstemp(prefix=".tilehires-tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path
