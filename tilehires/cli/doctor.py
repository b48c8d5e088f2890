"""`tilehires doctor`: what this machine has, and what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import click

from tilehires.config.known_models import ALL
from tilehires.errors import ExitCode, TilehiresError

GIB = 1024**3


@click.command()
def doctor() -> int:
    """Check this machine: versions, device, memory, disk, and what is missing and how to get it.

    Exits 5 where something that `run` needs is missing.
    """
    missing: list[str] = []
    for title, lines in (
        ("Versions", _versions(missing)),
        ("Device", _device(missing)),
        ("Memory and disk", _space()),
        ("Models", _models(missing)),
    ):
        click.echo(title)
        for line in lines:
            click.echo(f"  {line}")
    click.echo("Files that people use (suggestions; tilehires downloads nothing unasked)")
    for line in ALL:
        click.echo(f"  {line}")
    if missing:
        click.echo("Missing")
        for line in missing:
            click.echo(f"  {line}")
        return ExitCode.MISSING
    click.echo("Nothing is missing.")
    return ExitCode.OK


def _versions(missing: list[str]) -> Iterator[str]:
    yield f"{'python':20} {platform.python_version()} ({sys.executable})"
    yield f"{'system':20} {platform.platform()}"
    try:
        yield f"{'tilehires':20} {metadata.version('tilehires')}"
        needed = [r for r in metadata.requires("tilehires") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        missing.append(
            "tilehires isn't installed, so its upscalers and checks aren't found: pip install -e . in its folder"
        )
        return
    for requirement in sorted(needed):
        # "torch>=2.6" and "torch (>=2.6)": the name ends where the first other sign stands.
        name = requirement[: next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)]
        try:
            yield f"{name:20} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name:20} missing"
            missing.append(f"the package {name}: pip install '{requirement}'")


def _device(missing: list[str]) -> Iterator[str]:
    if util.find_spec("torch") is None:
        return  # among the versions already
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that torch needs
        missing.append(f"torch doesn't load ({error}): install it again")
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} {card.name}, {card.total_memory / GIB:.1f} GiB"
    if torch.backends.mps.is_available():
        yield "mps (Apple)"
    yield f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if not torch.cuda.device_count() and shutil.which("nvidia-smi"):
        yield "An NVIDIA driver is there, but this torch doesn't use it: install a CUDA build of torch."


def _space() -> Iterator[str]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield f"memory {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB"
    yield f"free disk here {shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB (a stage's cache takes 6 bytes per pixel)"


def _models(missing: list[str]) -> Iterator[str]:
    from tilehires import upscalers
    from tilehires.config.presets import shipped
    from tilehires.diffusion import checkpoints

    try:
        yield f"built-in model: {checkpoints.inspect('builtin').family.title}"
        upscalers.check("builtin")
        yield f"upscalers: {', '.join(upscalers.names())}"
    except TilehiresError as error:
        missing.append(f"{error.message} {error.hint}")
    yield f"presets: {', '.join(shipped())}"
