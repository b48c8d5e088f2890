"""`tilehires generate`: pictures from prompts, through the same stages as `run`."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.options import cluster_of, cluster_options, config_of, count_options, given, setting_options
from tilehires.cli.places import OUTPUT
from tilehires.cli.stopping import Stop
from tilehires.cli.streams import one_line


@cluster_options
@count_options
@setting_options
@click.command()
@click.argument("text", metavar="[PROMPT]", required=False)
@OUTPUT
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PROMPTS.txt",
    help="A text file of prompts, one per line.",
)
@click.option("--force", multiple=True, metavar="STAGE", help="Redo a stage (generate, hires, …) and all after it.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless something went wrong.")
@click.option("-v", "--verbose", is_flag=True, help="A line per image; the traceback of an unexpected error.")
@click.pass_context
def generate(
    ctx: click.Context,
    text: str | None,
    output: Path | str,
    file: Path | None,
    cluster: str | None,
    workers: int | None,
    force: tuple[str, ...],
    quiet: bool,
    verbose: bool,
) -> int:
    """Make a picture of PROMPT, or of each line of a file, and finish it as `run` finishes images.

    The first pass is at the model's native size (generate.width, generate.height); then it is upscaled and re-denoised,
    detailed, tiled and checked. The same prompt, seed and settings give the same bytes, and are not made twice.
    """
    stop = Stop()
    flagged = "flag --prompt" in {origin for origin, _ in given(ctx).flags}
    if sum((text is not None, file is not None, flagged)) != 1:
        raise click.UsageError('Say one of: a prompt ("a red fox"), -f prompts.txt.', ctx)
    config = config_of(ctx)
    config.require_checkpoint()

    from tilehires.batch import runner
    from tilehires.batch.prompts import read_prompts
    from tilehires.cli.bars import progress_for

    prompts = read_prompts(file) if file else (config.settings.generate.prompt if flagged else text or "",)
    with (
        stop,
        cluster_of(ctx, cluster, workers) as hands,
        progress_for(quiet=quiet, verbose=verbose) as progress,
    ):
        options = runner.RunOptions(force=force, cluster=hands, stopped=stop.asked)
        summary = runner.generate(config, prompts, output, root=file, options=options, progress=progress)
    if summary.exit_code or summary.warnings or not quiet:
        for line in summary.lines():
            click.echo(one_line(line), err=quiet)
    return summary.exit_code
