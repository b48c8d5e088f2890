"""`tilehires check`: the artifact checks on images that exist."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilehires.cli.places import Folder


@click.command()
@click.argument("output", default="output", type=Folder())
@click.option(
    "--against",
    metavar="INPUT",
    type=Folder(),
    help="The image that OUTPUT was made from, or the folder of them. Left away: what the report in OUTPUT says.",
)
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check; repeatable. Left away: all of them.")
@click.option("--strict", is_flag=True, help="Exit 4 when an image is flagged.")
@click.option("--json", "as_json", is_flag=True, help="Print every finding, measured values included, as JSON.")
def check(output: Path, against: Path | None, only: tuple[str, ...], strict: bool, as_json: bool) -> int:
    """Look for artifacts in OUTPUT, an image or a folder of them, by comparing it with what it was made from.

    Works on any pair of images, also what another tool made: its tile grid is searched for. Changes no file.
    """
    from tilehires.batch.inspection import exit_code, inspect

    done = []
    for one in inspect(output, against, only):
        done.append(one)
        if as_json:
            continue
        for finding in one.findings:
            if finding.flags:
                place = f" at {','.join(map(str, finding.box.as_list()))}" if finding.box else ""
                click.echo(f"{finding.severity:8} {one.output}: {finding.check}: {finding.message}{place}")
        if one.error:
            click.echo(f"failed   {one.output}: {one.error.message} {one.error.hint}".rstrip(), err=True)
    flagged, failed = sum(one.flagged for one in done), sum(one.error is not None for one in done)
    if as_json:
        click.echo(json.dumps({"version": 1, "images": [one.to_json() for one in done]}, indent=2))
    else:
        click.echo(f"{len(done)} looked at, {flagged} flagged, {failed} failed.")
    return exit_code(done, strict=strict)
