"""The page: report.json's content, style and scripts in one HTML file. No network, no other files but previews."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tilehires.images import MAX_PIXELS, Decoder, Isolated
from tilehires.report.html import plain, quoted, render, replace, url
from tilehires.report.missing import in_words, missing
from tilehires.report.thumbs import remove_others, thumbnail

STYLES = ("base.css", "page.css")
SCRIPTS = ("viewer.js", "elements.js", "panel.js", "marks.js", "page.js")


def write_page(
    report: Mapping[str, Any], output: Path, decoder: Decoder | None = None, elsewhere: Container[str] = ()
) -> Path:
    """Write output/report/index.html from a report (report.json's schema, version 1) and return its path.

    Makes the missing previews under output/report/thumbs/ and removes those no image uses. Pictures are linked by
    `run.input_folder` and `run.output_folder`, relative to output/report or absolute; without an input folder the page
    shows no before pictures, and says so. Text in the report may be anything at all: it is shown, never interpreted.
    A file that is missing or can't be decoded costs its preview, nothing else. Raises OSError when the page can't be
    written. `decoder`: what makes the previews; None: a process of its own. `elsewhere`: outputs that needn't lie here.
    """
    folder = output / "report"
    folder.mkdir(parents=True, exist_ok=True)
    if decoder is None:
        with Isolated() as isolated:
            data = page_data(report, folder, isolated, elsewhere)
    else:
        data = page_data(report, folder, decoder, elsewhere)
    remove_others(folder / "thumbs", (image["thumb"].rpartition("/")[2] for image in data["images"] if image["thumb"]))
    page = render("page.html.j2", STYLES, SCRIPTS, data, counts=data["counts"])
    return replace(folder / "index.html", page)


def page_data(
    report: Mapping[str, Any], folder: Path, decoder: Decoder, elsewhere: Container[str] = ()
) -> dict[str, Any]:
    """What the page's script works on: plain JSON with ready-made URLs, equal settings stored once.

    Makes the previews, in `folder`/thumbs.
    """
    run = report["run"]
    inputs = run.get("input_folder")
    common = next((image["settings"] for image in report["images"] if image.get("settings")), {})
    images = [_image(image, folder, run, common, decoder, elsewhere) for image in report["images"]]
    return plain(
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
    run: Mapping[str, Any],
    common: Mapping[str, Any],
    decoder: Decoder,
    elsewhere: Container[str],
) -> dict[str, Any]:
    inputs, outputs = run.get("input_folder"), run.get("output_folder", "..")
    gone = in_words(missing(image, folder, run, elsewhere))
    source, result, kept = image.get("input"), image.get("output"), image.get("before")
    before = url(inputs, source["path"]) if source and inputs is not None else None
    settings = image.get("settings", {})
    shown, root = (result, outputs) if result else (source, inputs)
    thumb = None
    if shown and shown.get("sha256") and root is not None:
        width, height = shown["size"]
        most = max(MAX_PIXELS, width * height)  # a run's own limit, which made it, may have been higher
        thumb = thumbnail(folder / root / shown["path"], shown["sha256"], folder / "thumbs", decoder, max_pixels=most)
    return {
        "id": image["id"],
        "anchor": "image/" + quoted(image["id"]),
        "status": image["status"],
        "cached": bool(image.get("cached")),
        "flagged": bool(image.get("flagged")),
        "score": image.get("score"),
        "attempts": image.get("attempts", []),
        "error": image.get("error"),
        "seed": image.get("seed"),
        "input": source,
        "output": result,
        "first_pass": kept,
        "before": url(outputs, kept["path"]) if kept else before,
        "after": url(outputs, result["path"]) if result else None,
        "thumb": f"thumbs/{thumb}" if thumb else None,
        "settings": {key: entry for key, entry in settings.items() if common.get(key) != entry},
        "unset": [key for key in common if key not in settings],
        "stages": image.get("stages", []),
        "regions": image.get("regions", []),
        "findings": image.get("findings", []),
        "notes": [*image.get("notes", []), *([gone] if gone else [])],
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
