"""An image's final file: its pixels, what is kept of the input's metadata, and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tilehires import metadata
from tilehires.batch.job import Job
from tilehires.batch.workspace import Workspace
from tilehires.checks import Finding
from tilehires.geometry import Wrap
from tilehires.images import Picture, write
from tilehires.records import FileRecord
from tilehires.stages.alpha import resized_alpha


def final_file(
    job: Job,
    picture: Picture,
    pixels: np.ndarray,
    findings: Sequence[Finding],
    workspace: Workspace,
    models: Mapping[str, str],
) -> tuple[FileRecord, tuple[str, ...]]:
    """Write the final file; returns its record, and notes on what its format couldn't hold.

    `picture`: the input, for what is kept of it; `pixels`: the finished ones; `models`: names and hashes, for the metadata.
    """
    keep = job.config.settings.run.metadata
    finished = replace(
        picture,
        pixels=pixels,
        alpha=resized_alpha(picture.alpha, job.route, Wrap.of(job.config.settings.model.seamless)),
        texts=_texts(job, picture.texts, findings, models, first_pass=not job.route.steps),
        exif=picture.exif if keep else None,
        xmp=picture.xmp if keep else None,
        iptc=picture.iptc if keep else None,
    )
    return _published(job, finished, job.found.output, workspace)


def first_pass_file(job: Job, pixels: np.ndarray, workspace: Workspace, models: Mapping[str, str]) -> FileRecord:
    """Write the first pass of a prompt beside its output."""
    picture = Picture(pixels, texts=_texts(job, {}, (), models, first_pass=True))
    return _published(job, picture, job.before, workspace)[0]


def _texts(
    job: Job, texts: Mapping[str, str], findings: Sequence[Finding], models: Mapping[str, str], *, first_pass: bool
) -> Mapping[str, str]:
    if not job.config.settings.run.metadata:
        return {}
    return metadata.texts_for(
        texts,
        job.config.settings,
        job.seed,
        findings,
        size=job.size,
        origins=job.config.origins,
        models=models,
        first_pass=first_pass,
    )


def _published(job: Job, picture: Picture, name: str, workspace: Workspace) -> tuple[FileRecord, tuple[str, ...]]:
    run = job.config.settings.run
    staged = workspace.staging / f"output.{run.format}"
    try:
        notes = write(staged, picture, format=run.format, quality=run.quality, bits=run.bits)
        digest = workspace.publish(staged, name)
    finally:
        staged.unlink(missing_ok=True)  # it is there only when the image failed
    return FileRecord(name, (picture.size.width, picture.size.height), digest), notes
