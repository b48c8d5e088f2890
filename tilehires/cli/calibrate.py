"""`tilehires calibrate`: what the checks measure on good images, as a preset."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.places import Folder


@click.command()
@click.argument("outputs", metavar="OUTPUT…", nargs=-1, required=True, type=Folder(file_okay=False))
@click.option(
    "-o", "--to", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="The preset to write."
)
@click.option(
    "--extends", default="default", show_default=True, metavar="NAME", help="The preset the runs were made with."
)
def calibrate(outputs: tuple[Path, ...], to: Path | None, extends: str) -> None:
    """Scores by which 2 % of the images of finished runs are flagged, as a preset.

    OUTPUT: folders that `run` wrote, with images that you have looked at and found good (inputs aren't taken: nobody has
    seen yet what becomes of them). A hundred or more make a calibration. It says how every check but the exact ones
    (black, finite, size) is distributed over them, and the score above which 2 % of them lie.
    """
    from tilehires.batch.calibration import calibrated, preset

    found = calibrated(outputs)
    text = preset(found, extends, to.parent if to else Path())
    if to is None:
        click.echo(text, nl=False)
        return
    from tilehires.files import atomic

    with atomic(to) as stream:
        stream.write(text.encode())
    known = len(found.calibration.known)
    click.echo(f"{to}: percentiles of {known} checks from {found.images} images. Use it with: tilehires run -c {to}")
