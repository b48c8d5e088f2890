"""`tilehires report` and `tilehires clean`: what concerns an output folder that exists."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.places import Folder, FolderOrStore

FOLDER = click.argument("output", default="output", type=Folder(file_okay=False))


@click.command()
@FOLDER
def report(output: Path) -> None:
    """Write report/index.html of OUTPUT (default: ./output) anew from its report.json.

    Images that were moved or deleted since are named.
    """
    from tilehires.report import in_words, load, missing, write_page

    document = load(output)
    click.echo(f"Report: {write_page(document, output)}")
    for image in document["images"]:
        if gone := in_words(missing(image, output / "report", document["run"])):
            click.echo(f"{image['id']}: {gone}", err=True)


@click.command()
@click.argument("output", default="output", type=FolderOrStore())
def clean(output: Path | str) -> None:
    """Empty the cache of OUTPUT (default: ./output). Images, records and reports stay.

    The next run then redoes the stages of what isn't finished; finished images stay finished. Of an object store it is this
    machine's cache.
    """
    from tilehires.batch.address import place_of
    from tilehires.batch.workspace import Workspace
    from tilehires.errors import RunError

    workspace = Workspace(place_of(output).folder)
    if not workspace.root.is_dir():
        raise RunError(f"{output} is no output folder of tilehires.", hint="Name the folder that `run` wrote to.")
    with workspace.locked():
        files = [path for path in workspace.cache.rglob("*") if path.is_file()]
        freed = sum(path.stat().st_size for path in files)
        for path in files:
            path.unlink()
    click.echo(f"Removed {len(files)} files, {freed / 1e9:.2f} GB, from {workspace.cache}.")
