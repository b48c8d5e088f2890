"""Whom to tell at the end of a run: a command's words, or a web address."""

from __future__ import annotations

import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def is_address(text: str) -> bool:
    """Whether `run.on_finish` is a web address, and no command."""
    return text.startswith(("http://", "https://"))


def _checked(asked: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(asked, str) and "://" in asked.partition(" ")[0] and not is_address(asked):
        raise ValueError("on_finish takes http:// and https:// addresses only")
    if isinstance(asked, str) and is_address(asked) and not _sendable(asked):
        raise ValueError("on_finish is no address that anything can be sent to")
    if isinstance(asked, str) and is_address(asked) and urlsplit(asked).username is not None:
        raise ValueError("on_finish sends no name and password; use a command, such as curl's, or a token in the path")
    try:
        words = shlex.split(asked) if isinstance(asked, str) else asked
    except ValueError as error:
        raise ValueError(f"on_finish can't be split into words: {error}") from error
    if any("\0" in word for word in words) or (asked and not (words and words[0])):
        raise ValueError("on_finish names no program")
    return asked


def _sendable(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # an open bracket, a port that is no number
        return False


OnFinish = Annotated[str | tuple[str, ...], AfterValidator(_checked)]
