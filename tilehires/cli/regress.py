"""`tilehires regress run|approve|report`."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.places import Folder

SUITE = click.argument("suite", metavar="SUITE.toml", type=click.Path(path_type=Path, dir_okay=False))
FILTER = click.option("--filter", "pattern", metavar="GLOB", help="Only the cases whose name matches.")


@click.group()
def regress() -> None:
    """Render a fixed suite and compare it with approved baselines: for CI.

    Exit codes: 0 pass, 1 regression, 2 usage, 3 no baseline, 4 a render crashed.
    """


@regress.command()
@SUITE
@FILTER
@click.option("-o", "--output", type=Folder(), help="Where results go (default: SUITE.results).")
@click.option("--any-environment", is_flag=True, help="Where this environment has no baseline, take another's.")
def run(suite: Path, pattern: str | None, output: Path | None, any_environment: bool) -> int:
    """Render every case and compare it with its baseline. Approves nothing.

    Writes index.html (new, approved, difference), junit.xml and results.json.
    """
    from tilehires.regress import guard, results
    from tilehires.regress.suite import load
    from tilehires.regress.verdict import code_of

    loaded = load(suite)
    folder, cases = output or loaded.results, loaded.only(pattern)
    results.prepare(folder)
    made = guard.check(
        loaded,
        cases,
        any_environment=any_environment,
        said=lambda result: click.echo(result.line()),
    )
    page = results.write(folder, suite.stem, made)
    click.echo(", ".join(f"{count} {status}" for status, count in guard.statuses(made)) + f". Results: {page}")
    return code_of(made)


@regress.command()
@SUITE
@FILTER
@click.option("--reason", required=True, help="Why these pictures are right; kept beside them.")
@click.option("--renders", default=3, show_default=True, type=click.IntRange(2, 100), help="Renders per case.")
def approve(suite: Path, pattern: str | None, reason: str, renders: int) -> None:
    """Render cases and make them the baselines of this environment.

    Each is rendered several times: what varies between renders of one build sets the thresholds, never below their
    floors.
    """
    from tilehires.regress import guard
    from tilehires.regress.suite import load

    loaded = load(suite)
    guard.approve(loaded, loaded.only(pattern), reason=reason, renders=renders, said=click.echo)
    click.echo(f"Baselines: {loaded.baselines}")


@regress.command()
@SUITE
@click.option("-o", "--output", type=Folder(), help="The results' folder (default: SUITE.results).")
def report(suite: Path, output: Path | None) -> None:
    """Write the page and junit.xml of the latest run anew, without rendering."""
    from tilehires.regress import results
    from tilehires.regress.suite import load

    click.echo(f"Results: {results.rewrite(output or load(suite).results)}")
