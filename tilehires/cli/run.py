"""`tilehires run` and `tilehires plan`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from tilehires.cli.options import cluster_of, cluster_options, config_of, prompt_options, setting_options
from tilehires.cli.places import OUTPUT, Folder
from tilehires.cli.stopping import Stop
from tilehires.cli.streams import one_line

SOURCE = click.argument("input", metavar="[INPUT]", default="input", type=Folder())


def _until(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """The next time that the clock shows HH:MM."""
    if value is None:
        return None
    try:
        asked = datetime.strptime(value, "%H:%M").time()
    except ValueError as error:
        raise click.BadParameter("write a time of day like 07:00", ctx, param) from error
    now = datetime.now()
    today = datetime.combine(now.date(), asked)
    return today if today > now else today + timedelta(days=1)


@cluster_options
@prompt_options
@setting_options
@click.command()
@SOURCE
@OUTPUT
@click.option(
    "--until",
    metavar="HH:MM",
    callback=_until,
    help="Finish the stage at work at that time of day and stop (exit 130); the next run goes on.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Then wait for more images: those that come into INPUT are done when they have stopped growing, until Ctrl-C.",
)
@click.option(
    "--force",
    multiple=True,
    metavar="STAGE",
    help="Redo a stage (generate, hires, detail, tiled, check) and all after it; repeatable.",
)
@click.option(
    "--redo",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Apply the marks saved from the report page: make those marked redo anew (next seed, and this command's flags).",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary unless something went wrong.")
@click.option("-v", "--verbose", is_flag=True, help="A line per image; the traceback of an unexpected error.")
@click.pass_context
def run(
    ctx: click.Context,
    input: Path,
    output: Path | str,
    until: datetime | None,
    watch: bool,
    force: tuple[str, ...],
    redo: Path | None,
    cluster: str | None,
    workers: int | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Finish every image of INPUT, a folder (default: ./input) or one file.

    Each image is upscaled and re-denoised to its target size, in overlapping tiles where it is large, then checked.
    What is done already is not done again; an interrupted run goes on with the same command.
    """
    stop = Stop()
    config = config_of(ctx)
    config.require_checkpoint()

    from tilehires.batch import runner
    from tilehires.cli.bars import progress_for

    with (
        stop,
        cluster_of(ctx, cluster, workers) as hands,
        progress_for(quiet=quiet, verbose=verbose) as progress,
    ):
        if until:
            progress.note(f"It ends by {until:%A, %H:%M}.")
        options = runner.RunOptions(force=force, redo=redo, until=until, watch=watch, cluster=hands, stopped=stop.asked)
        summary = runner.run(config, input, output, options=options, progress=progress)
    if summary.exit_code or summary.warnings or not quiet:
        for line in summary.lines():
            click.echo(one_line(line), err=quiet)
    return summary.exit_code


@prompt_options
@setting_options
@click.command()
@SOURCE
@OUTPUT
@click.pass_context
def plan(ctx: click.Context, input: Path, output: Path | str) -> None:
    """Say what `run` would do with each image of INPUT: stages, tiles, batch, predicted memory, work and disk.

    Reads headers only: no pixels, no weights.
    """
    config = config_of(ctx)
    config.require_checkpoint()

    from tilehires.batch import plan as planner

    setup = planner.settle(config)
    rows = planner.plan(config, input, output, setup=setup)
    for line in planner.memory_lines(setup):
        click.echo(line)
    for row in rows:
        for line in row.lines():
            click.echo(line)
    click.echo(planner.disk_line(config, rows, output))
