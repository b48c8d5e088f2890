"""`tilehires upscale`: a folder enlarged by upscalers alone, faces restored where asked. No diffusion model, no diffusers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilehires import upscalers
from tilehires.batch.address import place_of
from tilehires.batch.discover import Found, discover
from tilehires.batch.fence import fenced
from tilehires.batch.log import RunLog
from tilehires.batch.summary import Summary
from tilehires.batch.workspace import Workspace
from tilehires.config.model import Seamless
from tilehires.config.settings import HiresSettings
from tilehires.errors import ConfigError, ImageError, Interrupted
from tilehires.files import writing
from tilehires.geometry import Box, Size, Wrap
from tilehires.images import MAX_PIXELS, Decoder, FileFormat, Isolated, check_writable, suffix_of, write
from tilehires.progress import BatchProgress, SilentBatch
from tilehires.records import ErrorRecord, FileRecord, Record, StageRecord, empty_record
from tilehires.scratch import Scratch
from tilehires.stages.alpha import resized_alpha
from tilehires.stages.route import Route, Step, route
from tilehires.upscalers import ring
from tilehires.upscalers.loading import load
from tilehires.upscalers.restore import FaceRestorer

VERSION = 1
"""Raised when the same input and options give other pixels."""


@dataclass(frozen=True)
class EnlargeOptions:
    """What the command is told. `to` (a 0 follows the aspect) wins over `by`; `crop` cuts what `to` doesn't need.

    `seamless`: the axes along which the images tile, and their outputs are to.
    """

    upscaler: str = "builtin"
    upscaler_2: str = ""
    visibility_2: float = 0.5
    by: float = 2.0
    to: Size | None = None
    crop: bool = True
    restore: Path | None = None
    restore_visibility: float = 1.0
    seamless: Seamless = "none"
    tile: int = 512
    format: FileFormat = "png"
    quality: int = 95
    device: str = "cpu"
    max_pixels: int = field(default=MAX_PIXELS)


def enlarge(
    options: EnlargeOptions, source: Path, output: Path | str, *, progress: BatchProgress | None = None
) -> Summary:
    """Enlarge every image of `source` (a folder, or one file) into `output`, under mirrored names; as runner.run's.

    What is done already is not done again; a file that tilehires didn't make is never replaced; an image that fails is
    recorded, and the next one is done. Raises RunError where the run can't begin: nothing to do (2), a missing or broken
    model (5), another run on the same output (6).
    """
    _check(options)
    progress = progress or SilentBatch()
    place = place_of(output)
    found = discover(source, *place.written, suffix=suffix_of(options.format))
    models = _Models(options.device)
    for name in _names(options):
        upscalers.check(name)
    faces = FaceRestorer(options.restore, device=options.device) if options.restore else None
    workspace = Workspace(place.folder, url=place.url)
    with writing(place.folder), workspace.locked(progress.note), Isolated() as decoder:
        log = RunLog(workspace.logs)
        try:
            work = _Work(options, workspace, models, faces, progress, log, decoder)
            records, interrupted = work.all(found.found)
        finally:
            log.close()
    skipped = [empty_record(file.id, "skipped", notes=(file.reason,)) for file in found.skipped]
    return Summary((*records, *skipped), len(found.found) - len(records), interrupted)


def _check(options: EnlargeOptions) -> None:
    """Raises ConfigError for values out of range."""
    for name in ("visibility_2", "restore_visibility"):
        if not 0.0 <= getattr(options, name) <= 1.0:
            raise ConfigError(f"A visibility of {getattr(options, name)} is none.", hint="Choose one from 0 to 1.")
    if not 0.01 <= options.by <= 64.0:
        raise ConfigError(f"--by {options.by} is out of range.", hint="Choose a factor from 0.01 to 64.")
    if options.to is not None and not options.to.long_side:
        raise ConfigError("0x0 is no size.", hint="Give at least one side, like 2048x0.")


def _names(options: EnlargeOptions) -> list[str]:
    return [name for name in (options.upscaler, options.upscaler_2) if name]


class _Models:
    """Upscaler models by file, on the device, each loaded once."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._loaded: dict[Path, Any] = {}

    def upscaler(self, path: Path) -> Any:
        if path not in self._loaded:
            self._loaded[path] = load(path).to(self._device)
        return self._loaded[path]


@dataclass(frozen=True)
class _Work:
    """One run's tools."""

    options: EnlargeOptions
    workspace: Workspace
    models: _Models
    faces: FaceRestorer | None
    progress: BatchProgress
    log: RunLog
    decoder: Decoder

    def all(self, images: tuple[Found, ...]) -> tuple[list[Record], bool]:
        """(every image's record, whether it was interrupted)."""
        records: list[Record] = []
        self.progress.begin_batch(len(images))
        try:
            for image in images:
                self.progress.begin_image(image.id)
                records.append(self._one(image))
                self.progress.end_image(image.id, "cached" if records[-1].cached else records[-1].status)
        except (KeyboardInterrupt, Interrupted):
            return records, True
        finally:
            self.progress.end_batch()
        return records, False

    def _one(self, image: Found) -> Record:
        def note(text: str) -> None:
            self.log.traceback(image.id, text)

        made = fenced(lambda: self._enlarge(image), note, self.workspace.logs)
        if isinstance(made, ErrorRecord):
            self.progress.note(f"{image.id}: {made.message} {made.hint}".rstrip())
            made = empty_record(image.id, "failed", error=made)
            self.workspace.write_record(made)
        self.log.event("image", id=image.id, status=made.status, cached=made.cached)
        return made

    def _enlarge(self, image: Found) -> Record:
        options, workspace = self.options, self.workspace
        header = self.decoder.probe(image.path, max_pixels=options.max_pixels)
        way = self._way(header.size)
        check_writable(options.format, way.target)
        digest = workspace.hashes.sha256(image.path)
        key = self._key(digest, image.output)
        previous = workspace.record(image.id)
        if previous and self._is_current(previous, key):
            return replace(previous, cached=True)
        workspace.check_ours(image.output)
        began = time.monotonic()
        picture = self.decoder.read(image.path, max_pixels=options.max_pixels)
        pixels = self._upscaled(picture.pixels, way)
        faces: tuple[Box, ...] = ()
        if self.faces:
            pixels, faces = self.faces.restore(pixels, options.restore_visibility)
        finished = replace(
            picture,
            pixels=pixels,
            alpha=resized_alpha(picture.alpha, way, Wrap.of(options.seamless)),
            texts={**picture.texts, "extras": self._said(way)},
        )
        staged = workspace.staging / f"upscaled.{options.format}"
        try:
            notes = write(staged, finished, format=options.format, quality=options.quality)
            written = workspace.publish(staged, image.output)
        finally:
            staged.unlink(missing_ok=True)
        facts = {"upscaler": options.upscaler, "faces": [box.as_list() for box in faces]}
        stages = (StageRecord("upscale", key, time.monotonic() - began, False, facts, {"device": options.device}),)
        record = Record(
            id=image.id,
            input=FileRecord(image.id, (header.size.width, header.size.height), digest),
            output=FileRecord(image.output, (way.target.width, way.target.height), written),
            status="done",
            stages=stages,
            notes=(*picture.notes, *notes),
        )
        workspace.write_record(record)
        return record

    def _way(self, size: Size) -> Route:
        """One step to the size asked for; without `crop` the whole of what covers it is kept. Raises ImageError."""
        to = self.options.to or Size(0, 0)
        asked = HiresSettings.model_validate({"scale": self.options.by, "resize_x": to.width, "resize_y": to.height})
        last = route(size, asked, max_pixels=self.options.max_pixels).steps[-1]
        crop = last.crop if self.options.crop else Box.of(last.size)
        wrap = Wrap.of(self.options.seamless)
        if (wrap.x and crop.width != last.size.width) or (wrap.y and crop.height != last.size.height):
            raise ImageError(
                f"At {crop.size} the output would be cropped, and its edges would no longer meet (--seamless).",
                hint=f"Use --by N, one side as in --to {to.width}x0, or --no-crop.",
            )
        return Route(size, (Step("upscale", last.size, crop),))

    def _upscaled(self, image: np.ndarray, way: Route) -> np.ndarray:
        """Both upscalers at the covering size, mixed as Image.blend mixes, then cropped."""
        step, options = way.steps[-1], self.options
        wrap, scratch = Wrap.of(options.seamless), Scratch(self.workspace.staging)

        def enlarged(name: str) -> np.ndarray:
            upscaler = upscalers.resolve(name, self.models)
            return ring.upscale(
                upscaler, image, step.size, wrap, tile=options.tile, progress=self.progress, scratch=scratch
            )

        made = [enlarged(name) for name in _names(options) if name != options.upscaler_2 or options.visibility_2 > 0]
        mixed = made[0] if len(made) == 1 else made[0] + (made[1] - made[0]) * np.float32(options.visibility_2)
        return np.ascontiguousarray(mixed[step.crop.slices])

    def _said(self, way: Route) -> str:
        """What was done, by the names of A1111's Extras tab."""
        options = self.options
        said: Mapping[str, Any] = {
            "Postprocess upscale to": str(way.target) if options.to else None,
            "Postprocess upscale by": None if options.to else options.by,
            "Postprocess upscaler": Path(options.upscaler).stem,
            "Postprocess upscaler 2": Path(options.upscaler_2).stem if options.upscaler_2 else None,
            "Postprocess upscaler 2 visibility": options.visibility_2 if options.upscaler_2 else None,
            "Postprocess face restoration": options.restore.stem if options.restore else None,
            "Postprocess face visibility": options.restore_visibility if options.restore else None,
        }
        return ", ".join(f"{key}: {value}" for key, value in said.items() if value is not None)

    def _key(self, digest: str, output: str) -> str:
        """Identity of the output: the input's bytes, the options, the models' bytes."""
        files = [path for name in _names(self.options) for path in upscalers.files(name)]
        files += [self.options.restore] if self.options.restore else []
        parts = {
            "version": VERSION,
            "input": digest,
            "output": output,
            "options": asdict(self.options),
            "models": [self.workspace.hashes.sha256(path) for path in files],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def _is_current(self, previous: Record, key: str) -> bool:
        if previous.status != "done" or previous.output is None or [s.fingerprint for s in previous.stages] != [key]:
            return False
        return self.workspace.stands(previous.output)
