"""The contact sheet of a sweep: one PNG of sane size, each cell with its label, the whole picture, and a crop at 100 %."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tilehires.config.vary import shown
from tilehires.errors import ImageError
from tilehires.files import atomic
from tilehires.images import MAX_PIXELS, Decoder

WIDEST = 3200  # pixels of the sheet's pictures side by side, while none is narrower than NARROWEST
NARROWEST, LARGEST = 220, 640
READ_WHOLE = 80_000_000  # pixels; of larger pictures the sheet shows a preview alone
CROP = 0.6  # height of a crop ÷ its width
GAP, MARGIN = 16, 24
FONTS = (15, 26)  # pixels; the larger the cells, since a larger sheet is looked at scaled down
INK, SOFT, PAPER = (24, 24, 24), (105, 105, 100), (250, 250, 249)
MARKED = {"error": (179, 38, 30), "warning": (125, 82, 0)}

Pixels = NDArray[np.uint8]


def columns_of(axes: Sequence[Mapping[str, Any]]) -> int:
    """How many cells stand side by side: the first of two axes; a single one is broken into lines."""
    lengths = [len(axis["values"]) for axis in axes]
    count = math.prod(lengths)
    if len(lengths) == 2 and min(lengths) > 1:
        return lengths[0]
    return count if count <= 4 else math.ceil(math.sqrt(count))


def labels_of(values: Mapping[str, Any]) -> list[str]:
    """A line for each varied setting: "hires.denoise 0.3"."""
    return [f"{setting} {shown(value)}" for setting, value in values.items()]


def verdict_of(cell: Mapping[str, Any]) -> tuple[str, str]:
    """What the checks say of a cell, in a line, and the severity of it: "error", "warning" or ""."""
    if cell["status"] == "failed":
        return "failed", "error"
    if cell["status"] != "done":
        return "not made yet", ""
    flags = [one for one in cell["findings"] if one["severity"] != "info"]
    names = ", ".join(dict.fromkeys(one["check"] for one in flags))
    text = f"{len(flags)} finding{'s' * (len(flags) > 1)}: {names}" if flags else "no findings"
    score = "" if cell["score"] is None else f"score {cell['score']:.1f} · "
    worst = next((level for level in ("error", "warning") if any(one["severity"] == level for one in flags)), "")
    return score + text, worst


def write_sheet(body: Mapping[str, Any], folder: Path, decoder: Decoder) -> Path:
    """Write folder/sheet.png from sweep.json's content and return its path.

    A picture larger than its place is scaled down, and the place where the cells differ most is shown below it, pixel for
    pixel. A cell without a picture is an empty frame.
    """
    side = min(LARGEST, max(NARROWEST, WIDEST // columns_of(body["axes"])))
    shown_ = [_read(cell, folder, decoder, side) for cell in body["cells"]]
    if any(one is not None and one.reduced for one in shown_):
        centre = _busiest([one.whole for one in shown_ if one is not None])
        shown_ = [
            _with_crop(one, cell, folder, decoder, centre, side) if one is not None else None
            for one, cell in zip(shown_, body["cells"], strict=True)
        ]
    target, out = folder / "sheet.png", io.BytesIO()
    icc = next((one.icc for one in shown_ if one is not None and one.icc), None)
    _drawn(body, shown_).save(out, "PNG", icc_profile=icc)
    with atomic(target) as stream:
        stream.write(out.getvalue())
    return target


@dataclass(frozen=True)
class _Shown:
    """A cell's picture as it stands on the sheet. `reduced`: `whole` has fewer pixels than the file."""

    whole: Pixels
    reduced: bool
    icc: bytes | None
    crop: Pixels | None = None


def _read(cell: Mapping[str, Any], folder: Path, decoder: Decoder, side: int) -> _Shown | None:
    """A cell's picture, at most `side` pixels on its longer side; None where there is none that can be read."""
    if not cell["output"]:
        return None
    path, (width, height) = folder / cell["output"]["path"], cell["output"]["size"]
    most = max(MAX_PIXELS, width * height)
    try:
        if width * height > READ_WHOLE:
            preview = Image.open(io.BytesIO(decoder.preview(path, side, max_pixels=most)))
            return _Shown(np.asarray(preview.convert("RGB")), True, preview.info.get("icc_profile"))
        picture = decoder.read(path, max_pixels=most)
    except ImageError:
        return None  # it was removed, or changed, since it was made
    scale = min(1.0, side / max(width, height))
    whole = picture.pixels
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        whole = cv2.resize(np.ascontiguousarray(whole), size, interpolation=cv2.INTER_AREA)
    return _Shown(_levels(whole), scale < 1, None if picture.grey else picture.icc)


def _with_crop(
    one: _Shown, cell: Mapping[str, Any], folder: Path, decoder: Decoder, centre: tuple[float, float], side: int
) -> _Shown:
    """The same with its crop around `centre`, in shares of width and height."""
    width, height = cell["output"]["size"]
    if width * height > READ_WHOLE:
        return one
    try:
        pixels = decoder.read(folder / cell["output"]["path"], max_pixels=max(MAX_PIXELS, width * height)).pixels
    except ImageError:
        return one
    across, down = min(width, one.whole.shape[1]), min(height, round(side * CROP))
    left = min(max(round(centre[0] * width - across / 2), 0), width - across)
    top = min(max(round(centre[1] * height - down / 2), 0), height - down)
    return replace(one, crop=_levels(pixels[top : top + down, left : left + across]))


def _busiest(pictures: Sequence[Pixels]) -> tuple[float, float]:
    """Where the pictures differ most, in shares of width and height; the middle where they don't."""
    size = (pictures[0].shape[1], pictures[0].shape[0])
    stack = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA).astype(np.float32) for one in pictures])
    spread = cv2.blur(stack.std(axis=0).sum(axis=2), (max(1, size[0] // 4), max(1, size[1] // 4)))
    if spread.max() <= 0:
        return 0.5, 0.5
    y, x = np.unravel_index(int(np.argmax(spread)), spread.shape)
    return (float(x) + 0.5) / size[0], (float(y) + 0.5) / size[1]


def _levels(pixels: NDArray[Any]) -> Pixels:
    return (np.clip(np.nan_to_num(pixels), 0, 1) * 255 + 0.5).astype(np.uint8)


def _drawn(body: Mapping[str, Any], pictures: Sequence[_Shown | None]) -> Image.Image:
    columns = columns_of(body["axes"])
    rows = math.ceil(len(pictures) / columns)
    wholes = [one.whole for one in pictures if one is not None]
    crops = [one.crop for one in pictures if one is not None and one.crop is not None]
    width = max([NARROWEST, *(one.shape[1] for one in wholes)])
    high = max([NARROWEST // 2, *(one.shape[0] for one in wholes)])
    low = max([0, *(one.shape[0] + GAP // 2 for one in crops)])
    size = min(max(width // 24, FONTS[0]), FONTS[1])
    lines, line_height = len(body["axes"]), round(size * 1.45)
    height = lines * line_height + high + low + line_height + GAP
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + columns * (width + GAP) - GAP, 2 * MARGIN + 2 * line_height + rows * (height + GAP) - GAP),
        PAPER,
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=size)
    room = sheet.width - 2 * MARGIN
    draw.text((MARGIN, MARGIN), _within(draw, font, _title(body, bool(crops)), room), INK, font)
    for number, (cell, one) in enumerate(zip(body["cells"], pictures, strict=True)):
        x = MARGIN + number % columns * (width + GAP)
        y = MARGIN + 2 * line_height + number // columns * (height + GAP)
        for line, text in enumerate(labels_of(cell["values"])):
            draw.text((x, y + line * line_height), _within(draw, font, text, width), INK, font)
        y += lines * line_height
        if one is None:
            draw.rectangle((x, y, x + width - 1, y + high - 1), outline=SOFT)
        else:
            sheet.paste(Image.fromarray(one.whole), (x, y))
            if one.crop is not None:
                sheet.paste(Image.fromarray(one.crop), (x, y + high + GAP // 2))
        text, severity = verdict_of(cell)
        ink = MARKED.get(severity, SOFT)
        draw.text((x, y + high + low + 2), _within(draw, font, text, width), ink, font)
    return sheet


def _title(body: Mapping[str, Any], crops: bool) -> str:
    sizes = {tuple(cell["output"]["size"]) for cell in body["cells"] if cell["output"]}
    size = " x ".join(map(str, sizes.pop())) if len(sizes) == 1 else ""
    seeds = {cell["seed"] for cell in body["cells"] if cell.get("seed") is not None}
    seed = f"seed {seeds.pop()}" if len(seeds) == 1 else ""
    below = "below each: a detail at 100 %" if crops else ""
    return " · ".join(part for part in (Path(body["input"]["path"]).name, size, seed, below) if part)


def _within(draw: ImageDraw.ImageDraw, font: Any, text: str, width: int) -> str:
    """A text cut off where its place ends."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
