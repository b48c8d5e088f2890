"""`tilehires sweep`: one image under several settings, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.options import config_of, setting_options
from tilehires.cli.places import LOCAL_OUTPUT, Folder
from tilehires.cli.stopping import Stop
from tilehires.cli.streams import one_line


@setting_options
@click.command()
@click.argument("image", type=Folder())
@LOCAL_OUTPUT
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="section.key=a,b,c",
    help='A setting and the values to try; twice for a grid of two. Values with commas: key=["a, b", "c"].',
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless something went wrong.")
@click.option("-v", "--verbose", is_flag=True, help="A line per cell; the traceback of an unexpected error.")
@click.pass_context
def sweep(ctx: click.Context, image: Path, output: Path, vary: tuple[str, ...], quiet: bool, verbose: bool) -> int:
    """Finish one IMAGE under several settings, one seed for all, and compare: tune on one image before the night.

    Writes OUTPUT/sweep-<image name>/ with the pictures (cells/), a labelled contact sheet (sheet.png), a page on which all
    are zoomed together (index.html) and sweep.json. Stages that no varied setting touches are computed once.
    """
    from tilehires.config.vary import parse_vary

    stop = Stop()
    axes = [parse_vary(text) for text in vary]
    config = config_of(ctx)
    config.require_checkpoint()

    from tilehires.batch import sweep as sweeps
    from tilehires.cli.bars import progress_for

    with stop, progress_for(quiet=quiet, verbose=verbose) as progress:
        swept = sweeps.sweep(config, image, axes, output, progress=progress)
    summary = swept.summary
    if summary.exit_code or not quiet:
        for line in [*summary.lines(), f"Contact sheet: {swept.sheet}", f"Page: {swept.page}"]:
            click.echo(one_line(line), err=quiet)
    return summary.exit_code
