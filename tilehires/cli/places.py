"""Folders on the command line: where the address of an object store may stand, and where it can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilehires.batch.address import checked, is_url


class Folder(click.Path):
    """A path of this machine."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_url(value):
            self.fail(
                "an object store can't stand here, only a folder of this machine. Copy what you need from there, or mount it.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class FolderOrStore(click.Path):
    """A path of this machine, or the address of an object store, which stays a text. Raises ConfigError for a bad one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_url(value):
            return checked(value)
        return super().convert(value, param, ctx)


OUTPUT = click.option(
    "-o",
    "--output",
    default="output",
    show_default=True,
    type=FolderOrStore(),
    help="Where results go: a folder, or an object store (s3://bucket/folder).",
)
LOCAL_OUTPUT = click.option(
    "-o", "--output", default="output", show_default=True, type=Folder(), help="Where results go."
)
