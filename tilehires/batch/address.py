"""Where results go: into a folder, or into an object store, and then the run works in that store's local half."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tilehires.errors import ConfigError

_URL = re.compile(r"(\w+::)*[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:/ is a drive
_LOCAL = ("file", "local")


@dataclass(frozen=True, slots=True)
class Place:
    """`folder`: where a run works. `url`: the object store that it is the local half of; "" where results stay there."""

    folder: Path
    url: str = ""

    @property
    def written(self) -> tuple[Path, ...]:
        """The folders of this machine that outputs come to lie in."""
        scheme, _, path = self.url.partition("://")
        return (self.folder, Path(path)) if scheme in _LOCAL else (self.folder,)


def is_url(text: str) -> bool:
    """Whether a text names an object store as fsspec does: s3://bucket/folder."""
    return bool(_URL.match(text))


def place_of(output: Path | str, local: str = "") -> Place:
    """The place that a path, or a URL, names. `local`: the folder for local halves, "" for the user's cache folder.

    Raises ConfigError for a URL that can't be one of a folder, or that holds a secret.
    """
    if isinstance(output, Path) or not is_url(output):
        return Place(Path(output))
    url = checked(output)
    halves = Path(local).expanduser() if local else _cache() / "tilehires" / "stores"
    return Place(halves / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16], url)


def checked(url: str) -> str:
    """The URL without a slash at its end. Raises ConfigError, which never repeats a secret."""
    scheme, _, rest = url.rstrip("/").partition("://")
    scheme = scheme.lower()
    try:
        netloc = urlsplit(f"{scheme}://{rest}").netloc
    except ValueError:
        netloc = ""
    user, _, host = netloc.rpartition("@")
    # A key's secret may hold a slash, which cuts it in two: what follows a host is its port.
    odd = not host.startswith("arn:") and not host.partition(":")[2].isdecimal() and ":" in host
    if ":" in user or odd or "?" in rest or "#" in rest:
        raise ConfigError(
            f"The {scheme}:// address of the output holds a password, or what may be one.",
            hint="Write it without: keys and tokens come from the environment, or from the configuration of fsspec.",
        )
    if not rest.strip("/") or "::" in url or ".." in rest.split("/"):
        raise ConfigError(
            f"{url} is no address of a folder.", hint="It looks like s3://bucket/folder, gs://… or az://…."
        )
    return f"{scheme}://{rest}"


def _cache() -> Path:
    """The user's cache folder."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return asked if asked.is_absolute() else Path.home() / ".cache"
