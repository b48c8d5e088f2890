"""One case rendered by the very batch that people run."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilehires.batch.discover import discover
from tilehires.batch.hashes import HashMemory
from tilehires.batch.job import Job, prepare
from tilehires.batch.outcome import environment_of
from tilehires.batch.runner import run
from tilehires.batch.setup import set_up
from tilehires.errors import ImageError
from tilehires.images import InProcess, read
from tilehires.regress.baseline import Environment
from tilehires.regress.suite import Case


@dataclass(frozen=True)
class Identity:
    """What is known of a render before it is made."""

    environment: Environment
    input_sha256: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Render:
    """A finished render: the file's own PNG, and its pixels as a reader sees them."""

    png: bytes
    pixels: np.ndarray


def identify(case: Case) -> Identity:
    """The environment and the input of a case, without rendering it. Raises TilehiresError as a run does."""
    hashes = HashMemory(None)
    with _source(case) as source:
        setup = set_up(case.config)
        found = discover(source, source.parent / "none", suffix=".png", pictures=lambda files: 1).found[0]
        job = prepare(found, setup.config, setup.checkpoint, hashes, InProcess())
    numeric = environment_of(setup)
    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    environment = Environment(numeric["device"], numeric["dtype"], version, _models(job, hashes))
    settings = {
        f"{section}.{key}": value
        for section, values in job.config.settings.model_dump(mode="json").items()
        for key, value in values.items()
    }
    return Identity(environment, job.sha256, settings)


def render(case: Case) -> Render:
    """Render a case from nothing, in a folder of its own. Raises TilehiresError when it can't be."""
    with _source(case) as source, tempfile.TemporaryDirectory(prefix="tilehires-regress-") as folder:
        output = Path(folder) / "output"
        summary = run(case.config, source, output)
        record = summary.records[0]
        if record.status != "done" or record.output is None:
            error = record.error
            raise ImageError(error.message if error else "The render wasn't made.", hint=error.hint if error else "")
        path = output / record.output.path
        return Render(path.read_bytes(), read(path).pixels)


@contextlib.contextmanager
def _source(case: Case) -> Iterator[Path]:
    """What the batch is given: the case's image, or a file that holds its prompt."""
    if case.input is not None:
        yield case.input
        return
    with tempfile.TemporaryDirectory(prefix="tilehires-regress-") as folder:
        file = Path(folder) / "prompt.txt"
        file.write_text(case.prompt or "", encoding="utf-8")
        yield file


def _models(job: Job, hashes: HashMemory) -> str:
    files = {path for stage in job.stages for path in stage.models}
    return hashlib.sha256("\n".join(sorted(hashes.sha256(path) for path in files)).encode()).hexdigest()
