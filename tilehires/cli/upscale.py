"""`tilehires upscale`: enlarge without diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilehires.cli.places import OUTPUT, Folder
from tilehires.cli.stopping import Stop
from tilehires.cli.streams import one_line
from tilehires.errors import ConfigError


@click.command()
@click.argument("input", type=Folder())
@OUTPUT
@click.option("--upscaler", default="builtin", show_default=True, metavar="NAME|FILE", help="A name or a model file.")
@click.option("--upscaler-2", default="", metavar="NAME|FILE", help="A second upscaler, mixed into the first's result.")
@click.option("--visibility-2", default=0.5, show_default=True, metavar="F", help="How much of the second: 0 to 1.")
@click.option("--by", type=float, metavar="N", help="Output size ÷ input size; 2 where nothing else is said.")
@click.option("--to", metavar="WxH", help="Output size: the image covers it and is cropped; a 0 follows the aspect.")
@click.option("--no-crop", is_flag=True, help="With --to: keep all of the image that covers the size.")
@click.option(
    "--seamless",
    default="none",
    show_default=True,
    type=click.Choice(["none", "x", "y", "both"]),
    help="The axes along which the images tile without a seam: so will the outputs.",
)
@click.option("--restore", type=click.Path(path_type=Path), metavar="FILE", help="A face restoration model: GFPGAN …")
@click.option("--restore-visibility", default=1.0, show_default=True, metavar="F", help="How much of it: 0 to 1.")
@click.option(
    "--format",
    default="png",
    show_default=True,
    type=click.Choice(["png", "jpeg", "webp", "tiff", "avif"]),
    help="Format of the outputs.",
)
@click.option("--quality", default=95, show_default=True, type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless something went wrong.")
@click.option("-v", "--verbose", is_flag=True, help="A line per image; the traceback of an unexpected error.")
def upscale(input: Path, output: Path | str, quiet: bool, verbose: bool, **given: Any) -> int:
    """Enlarge every image of INPUT, a folder or one file, by upscalers alone: no diffusion model, no prompt.

    Names, subfolders and metadata stay. What is done already is not done again; a file that tilehires didn't make is never
    overwritten; a broken file costs itself.
    """
    stop = Stop()
    if given["by"] is not None and given["to"]:
        raise click.UsageError("--by and --to both say how large the output is: give one of them.")
    from tilehires.batch import enlarge
    from tilehires.batch.device import device_of
    from tilehires.cli.bars import progress_for

    options = enlarge.EnlargeOptions(
        upscaler=given["upscaler"],
        upscaler_2=given["upscaler_2"],
        visibility_2=given["visibility_2"],
        by=2.0 if given["by"] is None else given["by"],
        to=_size(given["to"]),
        crop=not given["no_crop"],
        seamless=given["seamless"],
        restore=given["restore"],
        restore_visibility=given["restore_visibility"],
        format=given["format"],
        quality=given["quality"],
        device=str(device_of(given["device"])),
    )
    with stop, progress_for(quiet=quiet, verbose=verbose) as progress:
        summary = enlarge.enlarge(options, input, output, progress=progress)
    if summary.exit_code or not quiet:
        for line in summary.lines():
            click.echo(one_line(line), err=quiet)
    return summary.exit_code


def _size(text: str | None) -> Any:
    from tilehires.geometry import Size

    if not text:
        return None
    try:
        return Size.parse(text)
    except ValueError as error:
        raise ConfigError(f"--to: {error}.", hint="For example 2048x0.") from error
