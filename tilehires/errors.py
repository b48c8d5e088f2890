"""What can go wrong, and the exit code each kind ends with: part of the stable interface (docs/exit-codes.md)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command. Where several apply, the first of 130, 6, 5, 2, 3, 4 wins."""

    OK = 0
    BUG = 1
    USAGE = 2
    IMAGES_FAILED = 3
    FLAGGED = 4
    MISSING = 5
    LOCKED = 6
    INTERRUPTED = 130


class TilehiresError(Exception):
    """An error the user can act on: `message` says what is wrong, `hint` what to do next."""

    exit_code: IntEnum = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ImageError(TilehiresError):
    """One image can't be done; it is recorded, and the batch goes on."""

    exit_code = ExitCode.IMAGES_FAILED


class RunError(TilehiresError):
    """The run stops, before its first image or between two."""

    exit_code = ExitCode.USAGE


class NothingToDoError(RunError):
    """There is no image, or no prompt, where they were looked for."""


class DiskFullError(RunError):
    """Nothing more can be written where it has to go."""


class ConfigError(RunError):
    """A setting is unknown, out of range or contradicts another."""


class MissingError(RunError):
    """A model file or a dependency isn't there, or isn't what it claims to be."""

    exit_code = ExitCode.MISSING


class LockedError(RunError):
    """Another process works on the same output folder."""

    exit_code = ExitCode.LOCKED


class Interrupted(RunError):  # noqa: N818 - it is an ending the user asked for, not an error
    """Ctrl-C or a deadline: state is kept, the same command goes on."""

    exit_code = ExitCode.INTERRUPTED
