"""`tilehires calibrate`: limits of the checks from runs of good images."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("outputs", metavar="OUTPUT…", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-o", "--to", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="The preset to write."
)
@click.option(
    "--extends", default="default", show_default=True, metavar="NAME", help="The preset the runs were made with."
)
def calibrate(outputs: tuple[Path, ...], to: Path | None, extends: str) -> None:
    """Limits at which 2 % of the images of finished runs are flagged, as a preset.

    OUTPUT: folders that `run` wrote, with images that you have looked at and found good. A hundred or more make a
    calibration; every check but the exact ones (black, finite, size) gets the limit that their values ask for.
    """
    from tilehires.batch.calibration import calibrated, preset

    found = calibrated(outputs)
    text = preset(found, extends)
    if to is None:
        click.echo(text, nl=False)
        return
    from tilehires.files import atomic

    with atomic(to) as stream:
        stream.write(text.encode())
    click.echo(
        f"{to}: limits of {len(found.limits)} checks from {found.images} images. Use it with: tilehires run -c {to}"
    )
