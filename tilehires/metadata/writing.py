"""The texts of a finished image: the infotext its peers read, and one JSON text of our own.

Nothing in them differs between two equal runs: times and memory go to report.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Protocol

from tilehires import __version__
from tilehires.config.settings import SamplingPass, Settings, hires_pass
from tilehires.geometry import Size
from tilehires.metadata.a1111 import LARGEST, Infotext
from tilehires.metadata.a1111 import format as format_infotext
from tilehires.metadata.a1111 import parse as parse_infotext
from tilehires.metadata.reading import read
from tilehires.metadata.values import words
from tilehires.metadata.webui import infotext_in

OURS = "tilehires"
_SECTIONS = {"model", "generate", "hires", "tiled", "check"}  # what shapes the picture, not how a run is organised
_LEFT_OUT = {"check": {"percentiles"}}  # a calibration's tables: large, and in report.json


class Finding(Protocol):
    """What is written of a check's finding (checks.Finding)."""

    @property
    def check(self) -> str: ...

    @property
    def severity(self) -> str: ...

    @property
    def message(self) -> str: ...


def texts_for(
    texts: Mapping[str, str],
    settings: Settings,
    seed: int,
    findings: Sequence[Finding] = (),
    *,
    size: Size | None = None,
    origins: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    first_pass: bool = False,
) -> dict[str, str]:
    """The output's texts by PNG keyword: the input's own, with "parameters" brought up to date and "tilehires" added.

    `seed` is the image's resolved one, `size` the input's, `origins` says where each setting came from, `models` maps
    model names to their sha256. Of an image that says how it was made, prompt and first-pass values stay as they
    are, in A1111's words where another tool wrote them; what the hires pass did otherwise is said by A1111's "Hires …" keys.
    `first_pass`: there was no hires pass.
    """
    before = texts.get("parameters", "")
    infotext = _said(texts) or _first_pass(settings, seed, size)
    hires = hires_pass(settings, seed)
    ours: dict[str, Any] = {
        "version": __version__,
        "seed": seed,
        "settings": {
            section: values
            for section, values in settings.model_dump(mode="json", exclude=_LEFT_OUT).items()
            if section in _SECTIONS
        },
        "findings": [_described(finding) for finding in findings],
    }
    if origins:
        ours["origins"] = {key: origin for key, origin in origins.items() if key.partition(".")[0] in _SECTIONS}
    if models:
        ours["models"] = dict(models)
    if before:
        ours["input_parameters"] = before
    return {
        **{key: text for key, text in texts.items() if key not in ("parameters", OURS)},
        "parameters": format_infotext(
            _by_us(infotext if first_pass else _with_hires(infotext, settings, hires), settings)
        ),
        OURS: json.dumps(ours, ensure_ascii=False),
    }


def _said(texts: Mapping[str, str]) -> Infotext | None:
    """The infotext of the image: its own, whole, or what another tool says, in A1111's words. None where none is."""
    own = infotext_in(texts)
    if own is not None and len(own) <= LARGEST:
        return parse_infotext(words(own) or "")
    found = read(texts)
    if found is None or not found.source:
        return None
    fields = {
        "Steps": found.steps,
        "Sampler": found.sampler,
        "Schedule type": found.scheduler,
        "CFG scale": None if found.cfg is None else _plain(found.cfg),
        "Seed": found.seed,
        "Size": found.size,
        "Model hash": found.model_hash,
        "Model": found.model,
        "Clip skip": found.clip_skip,
    }
    prompt = " ".join(part for part in (found.prompt, found.settings().get("loras")) if part)
    return Infotext(
        prompt, found.negative_prompt or "", {key: str(said) for key, said in fields.items() if said is not None}
    )


def _first_pass(settings: Settings, seed: int, size: Size | None) -> Infotext:
    """The infotext of an image that says nothing about its making: the settings it was treated with."""
    g = settings.generate
    fields = {
        "Steps": str(g.steps),
        "Sampler": g.sampler,
        "Schedule type": g.scheduler,
        "CFG scale": _plain(g.cfg),
        "Seed": str(seed),
    }
    if size:
        fields["Size"] = str(size)
    fields["Model"] = _model_name(settings.model.checkpoint)
    if settings.model.clip_skip > 1:
        fields["Clip skip"] = str(settings.model.clip_skip)
    return Infotext(g.prompt, g.negative_prompt, fields)


def _with_hires(infotext: Infotext, settings: Settings, hires: SamplingPass) -> Infotext:
    """The infotext with what the hires pass did; keys of an earlier hires pass make room."""
    fields = {key: value for key, value in infotext.fields.items() if not key.startswith("Hires ")}
    h = settings.hires
    fields["Denoising strength"] = _plain(hires.denoise)
    if h.resize_x or h.resize_y:
        fields["Hires resize"] = f"{h.resize_x}x{h.resize_y}"
    else:
        fields["Hires upscale"] = _plain(h.scale)
    fields["Hires steps"] = str(hires.steps)
    fields["Hires upscaler"] = _model_name(hires.upscaler)
    differing = {
        "Hires checkpoint": (_model_name(hires.checkpoint or settings.model.checkpoint), fields.get("Model")),
        "Hires sampler": (hires.sampler, fields.get("Sampler")),
        "Hires schedule type": (hires.scheduler, fields.get("Schedule type")),
        "Hires CFG Scale": (_plain(hires.cfg), fields.get("CFG scale")),
        "Hires prompt": (hires.prompt, infotext.prompt),
        "Hires negative prompt": (hires.negative_prompt, infotext.negative_prompt),
    }
    fields |= {key: used for key, (used, first) in differing.items() if used and used != first}
    return replace(infotext, fields=fields)


def _by_us(infotext: Infotext, settings: Settings) -> Infotext:
    """The infotext with what is true of the output, whoever made the first pass: whether it tiles, and our version."""
    fields = dict(infotext.fields)
    if settings.model.seamless == "both":
        fields["Tiling"] = "True"
    else:  # also where it tiles along one axis: A1111 has no word for that
        fields.pop("Tiling", None)
    return replace(infotext, fields={**fields, "Version": f"tilehires {__version__}"})


def _described(finding: Finding) -> dict[str, Any]:
    return {"check": finding.check, "severity": finding.severity, "message": finding.message}


def _model_name(reference: str) -> str:
    """As A1111 names models: the file's stem; a hub id or a built-in name as it is."""
    path = PurePath(reference.replace("\\", "/"))
    return path.stem if path.suffix in (".safetensors", ".ckpt", ".pth", ".pt") else reference


def _plain(value: float) -> str:
    """0.35 → "0.35", 7.0 → "7.0" as A1111 writes it, 2.0 → "2.0"."""
    return repr(float(value))
