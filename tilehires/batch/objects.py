"""The objects below one URL, by fsspec: each is there whole or not at all, and each call is tried three times."""

from __future__ import annotations

import errno
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tilehires.errors import ConfigError, ImageError, MissingError, RunError
from tilehires.files import TEMPORARY, raise_if_hopeless

PAUSES = (0.5, 2.0)
"""Seconds between the tries of a call."""
AT_ONCE = 16
"""Small objects that are read or written at the same time."""
WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "memory"})
"""Protocols that show an object only once it is written. Elsewhere it is written under another name, and moved."""
LONGEST = 900
"""Bytes that a name may have: S3 takes 1024 with the folder's."""
_VERSIONS = ("ETag", "etag", "generation", "mtime", "last_modified", "LastModified", "updated", "modified", "created")
Result = TypeVar("Result")


class Objects:
    """What lies below a URL, by names like "sub/a.png".

    An object's tag is a text that another one under its name doesn't have: the store's own, or size and time. All raise
    RunError when the store can't be reached or refuses, FileNotFoundError for what isn't there.
    """

    def __init__(self, url: str) -> None:
        """Raises MissingError without the driver, ConfigError for an unknown kind of store."""
        self.url = url
        self._protocol = url.partition("://")[0]
        self._fs, self._root = _opened(url, self._protocol)
        self._whole = self._protocol in WHOLE
        self.sure = self._protocol in ("file", "local", "memory")
        """`create` is known to be exclusive."""

    def listing(self) -> dict[str, str]:
        """The tags of all objects, as they are now."""
        self._fs.invalidate_cache()
        try:
            found = self._tried("", lambda: self._fs.find(self._root, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        cut = len(self._root.rstrip("/")) + 1
        return {name[cut:]: _tag(info) for name, info in found.items() if info["type"] == "file" and name[cut:]}

    def tag(self, name: str) -> str | None:
        """An object's tag now; None where there is none."""
        self._fs.invalidate_cache()
        try:
            info = self._tried(name, lambda: self._fs.info(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _tag(info) if info["type"] == "file" else None

    def read(self, name: str) -> bytes:
        return self._tried(name, lambda: self._fs.cat_file(self._path(name)))

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Many small objects, several at once; without those that are gone meanwhile."""

        def read(name: str) -> tuple[str, bytes | None]:
            try:
                return name, self.read(name)
            except FileNotFoundError:
                return name, None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for name, data in pool.map(read, names):
                if data is not None:
                    yield name, data

    def sha256(self, name: str) -> str:
        """The hash of an object's bytes, read in pieces."""

        def read() -> str:
            with self._fs.open(self._path(name), "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        return self._tried(name, read)

    def fetch(self, name: str, file: Path) -> None:
        """Have an object as a file, which appears whole."""
        part = file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._tried(name, lambda: self._fs.get_file(self._path(name), str(part)))
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def put(self, file: Path, name: str) -> str:
        """Have a file as an object, in place of what is there; returns the tag. Raises ImageError when it can't be one."""
        return self._put(name, lambda path: self._fs.put_file(str(file), path))

    def put_all(self, files: Mapping[str, Path]) -> None:
        """The same with many small files, several at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda item: self.put(item[1], item[0]), files.items()))

    def write(self, name: str, data: bytes) -> str:
        """Have these bytes as an object, in place of what is there; returns the tag."""
        return self._put(name, lambda path: self._fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Have these bytes as an object if there is none; whether that was so. Not all stores can tell for `sure`."""
        path = self._path(name)
        try:
            if self._protocol in ("file", "local"):
                self._fs.makedirs(self._fs._parent(path), exist_ok=True)
                with self._fs.open(path, "xb") as stream:
                    stream.write(data)
            else:
                self._fs.pipe_file(path, data, mode="create")
            return True
        except FileExistsError:
            return False
        except Exception:  # the driver, or the store, doesn't know that mode; or it says otherwise that there is one
            if self.tag(name) is not None:
                return False
            self.write(name, data)
            return True

    def copy(self, name: str, other: str) -> None:
        """Have a copy of an object under another name."""
        self._put(other, lambda path: self._fs.cp_file(self._path(name), path))

    def delete(self, name: str) -> None:
        """Have no object of that name."""
        try:
            self._tried(name, lambda: self._fs.rm_file(self._path(name)))
        except FileNotFoundError:
            return

    def check_name(self, name: str) -> None:
        """Raise ImageError for a name that no object can have."""
        try:
            if len(name.encode()) <= LONGEST:
                return
        except UnicodeEncodeError:
            pass
        raise ImageError(
            f"{ascii(name)} can't be the name of an object: it is too long, or no text.", hint="Rename the input."
        )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, name: str, write: Callable[[str], object]) -> str:
        path = self._path(name)

        def put() -> None:
            if self._whole:
                write(path)
                return
            if self._fs.isdir(path):
                raise IsADirectoryError(path)
            folder = self._fs._parent(path)
            self._fs.makedirs(folder, exist_ok=True)
            part = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
            write(part)
            self._fs.mv(part, path)

        self.check_name(name)
        try:
            self._tried(name, put)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise ImageError(
                f"{self.url}/{name} can't be written: a file or a folder is in its way.",
                hint="Move that away, or choose another output with -o.",
            ) from error
        except FileNotFoundError as error:
            raise RunError(
                f"{self.url} can't be written: there is no such bucket.",
                hint="Make it first, or choose another with -o.",
            ) from error
        tag = self.tag(name)
        if tag is None:
            raise RunError(
                f"{self.url}/{name} was written, and isn't there.", hint="Does something else change that folder?"
            )
        return tag

    def _tried(self, name: str, call: Callable[[], Result]) -> Result:
        """Raises RunError once the last try failed, and at once where another wouldn't help."""
        pauses = list(PAUSES)
        while True:
            try:
                return call()
            except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, MemoryError):
                raise
            except PermissionError as error:
                raise RunError(
                    f"{self.url} refuses {_whose(name)}: {_said(error)}.",
                    hint="Check the rights of the account that the environment names; listing, reading, writing and deleting"
                    " are needed.",
                ) from error
            except Exception as error:  # each driver has errors of its own, which derive from nothing common
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise_if_hopeless(error, Path(name))
                if not pauses:
                    raise RunError(
                        f"{self.url} can't be used ({_whose(name)}): {_said(error)}.",
                        hint="Check the network and the credentials, which the driver takes from the environment. The same"
                        " command goes on: what was made is kept on this machine, and put there first.",
                    ) from error
                time.sleep(pauses.pop(0))


def _opened(url: str, protocol: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder in it."""
    import fsspec
    from fsspec.registry import known_implementations

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        known = known_implementations.get(protocol, {}).get("class", "")
        package = known.partition(".")[0]
        raise MissingError(
            f"{protocol}:// needs a driver that isn't installed.",
            hint=f"pip install {package or 'its driver for fsspec'}",
        ) from error
    except Exception as error:
        kinds = "s3, gs, az" if protocol not in known_implementations else protocol
        raise ConfigError(f"{url} can't be used: {_said(error)}.", hint=f"fsspec knows {kinds} and others.") from error
    return fs, root.rstrip("/")


def _tag(info: Mapping[str, Any]) -> str:
    version = next((info[key] for key in _VERSIONS if info.get(key)), "")
    if isinstance(version, datetime):  # of one object, where a listing gives seconds, or the other way round
        version = version.timestamp()
    return f"{info['size']}:{str(version).strip(chr(34))}"  # Azure quotes its tags, but not in a listing


def size_in(tag: str) -> int:
    """The bytes of the object that has that tag."""
    return int(tag.partition(":")[0])


def _whose(name: str) -> str:
    return ascii(name) if name else "a listing"


def _said(error: BaseException) -> str:
    """An error in one line, without what an address in it may carry."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"(\?|//[^/@\s]*@)\S*", "…", f"{type(error).__name__}: {lines[0]}")[:300].rstrip(": .")
