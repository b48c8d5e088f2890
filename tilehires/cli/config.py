"""`tilehires config`: the settings in effect, and a file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from tilehires.cli.options import config_of, given, preset_option, setting_options


@click.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show the settings in effect with each value's origin (the same as `config show`), or start a file of your own."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@setting_options
@click.command()
@click.pass_context
def show(ctx: click.Context) -> None:
    """Print the settings that `run` with the same flags would start from, as TOML, with each value's origin.

    An image's own metadata and sidecars come on top: the report shows the settings of each image.
    """
    from tilehires.config.toml import effective_toml

    click.echo(effective_toml(config_of(ctx)), nl=False)


@click.command()
@click.argument("file", default="tilehires.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def init(ctx: click.Context, file: Path) -> None:
    """Write FILE (default: tilehires.toml), a preset to edit with every setting in it, commented out.

    It extends the preset of -c. A file that exists is not touched.
    """
    from tilehires.config.toml import starting_toml
    from tilehires.errors import ConfigError

    text = starting_toml(config_of(ctx), given(ctx).preset or "default")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{file} exists.", hint="Choose another name: tilehires config init mine.toml") from error
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.", hint="Choose another place.") from error
    click.echo(f"Wrote {file}. Use it with: tilehires run -c {file}")


init.params.append(preset_option())
config.add_command(show)
config.add_command(init)
