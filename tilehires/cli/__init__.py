"""The commands: parse → call → exit code. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

import click

from tilehires import __version__
from tilehires.cli.streams import lasting
from tilehires.errors import ExitCode, TilehiresError

# name → (module that holds a command of that name, its help in the list of commands)
COMMANDS = {
    "run": ("tilehires.cli.run", "Finish every image of a folder."),
    "plan": ("tilehires.cli.run", "Say what `run` would do with each image; loads no weights."),
    "generate": ("tilehires.cli.generate", "Make pictures from prompts, and finish them as `run` does."),
    "sweep": ("tilehires.cli.sweep", "One image under several settings: contact sheet and page."),
    "upscale": ("tilehires.cli.upscale", "Enlarge without diffusion: two upscalers mixed, faces restored."),
    "config": ("tilehires.cli.config", "Show the settings in effect, or start a file of your own."),
    "models": ("tilehires.cli.models", "List models, or say what a file is."),
    "regress": ("tilehires.cli.regress", "Render a fixed suite and fail when a render drifts: for CI."),
    "check": ("tilehires.cli.check", "Look for artifacts in images that exist, ours or another tool's."),
    "calibrate": ("tilehires.cli.calibrate", "Limits of the checks from runs of good images, as a preset."),
    "report": ("tilehires.cli.output", "Rebuild the report of an output folder."),
    "clean": ("tilehires.cli.output", "Empty the cache of an output folder."),
    "doctor": ("tilehires.cli.doctor", "Check this machine: versions, device, memory, what is missing."),
}


class Commands(click.Group):
    """A group that imports a command's module when that command is called: `--help` stays as quick as click."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: tilehires run FOLDER",
)
@click.version_option(__version__, "--version", prog_name="tilehires", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show the traceback of an unexpected error.")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """A folder of images in; finished, checked, high-resolution images out."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return ExitCode.USAGE
    return ExitCode.OK


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program. Ends the process with the exit code of docs/exit-codes.md."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not {"-v", "--verbose"} & set(words):
        sys.excepthook = _bug
    with lasting():
        sys.exit(_exit_code(words))


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        result = cli.main(list(arguments), prog_name="tilehires", standalone_mode=False)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        _say(error.format_message(), f"See: {context.command_path} --help" if context else "")
        return ExitCode.USAGE
    except TilehiresError as error:
        _say(error.message, error.hint)
        return error.exit_code
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        # Every option that takes a name or a path may be given a text that can be none.
        _say(
            f"This is too long for the name of a file: {str(error.filename)[:100]}",
            "Look for a quote that was left out.",
        )
        return ExitCode.USAGE
    return result if isinstance(result, int) else ExitCode.OK


def _bug(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What stands on the terminal after an unexpected error; Python then exits with 1."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _say(
        f"unexpected {kind.__name__}: {error}",
        "This is a bug in tilehires or a library. Run it again with -v for the traceback.",
    )


def _say(message: str, hint: str) -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
