"""How a run ended, told: the summary file, and the command or web address of `run.on_finish`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tilehires import __version__
from tilehires.batch.summary import Summary
from tilehires.batch.workspace import Workspace
from tilehires.config.on_finish import is_address
from tilehires.config.settings import RunSettings
from tilehires.errors import ExitCode, Interrupted, TilehiresError
from tilehires.files import ours, write_json

VERSION = 1
NAME = "summary.json"


class Finish:
    """The end of the run that works there. `error`: what stopped it; a bug, too."""

    def __init__(self, settings: RunSettings, workspace: Workspace, note: Callable[[str], None]) -> None:
        self._settings, self.workspace, self._note = settings, workspace, note
        self._started = time.time()
        self.summary: Summary | None = None
        self.error: Exception | None = None
        self.warnings: tuple[str, ...] = ()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Around the run, its lock included: what it ends with is told when all is closed."""
        words = self._words()
        if words and not shutil.which(words[0]):
            self._note(f"run.on_finish: there is no program {words[0]} as yet.")
        try:
            yield
        except Exception as error:
            self.error = error
            raise
        except KeyboardInterrupt:  # before the first image, or while the report was written
            self.error = Interrupted("The run was stopped.", hint="The same command goes on from here.")
            raise
        finally:
            if said := self._tell():
                self.warnings = (said,)
                if self.error or self.summary is None:
                    self._note(said)

    def begin(self) -> None:
        """Remove what an earlier run said: where this one is killed, nothing says that it ended well."""
        with ours(self._path):
            self._path.unlink(missing_ok=True)

    def write(self) -> None:
        """Write the summary file. Raises RunError when the disk is full."""
        with self.workspace.reporting(()):
            write_json(self._path, self.body())

    @property
    def _path(self) -> Path:
        return self.workspace.report / NAME

    def body(self) -> dict[str, Any]:
        """What is told, as JSON (docs/running-overnight.md)."""
        summary, error, workspace = self.summary, self._said(), self.workspace
        said = [error.message] if error else []
        said += summary.lines()[:1] if summary else []
        code = error.exit_code if error else summary.exit_code if summary else ExitCode.BUG
        records = summary.records if summary else ()
        return {
            "version": VERSION,
            "text": " ".join(said) or "The run ended unexpectedly.",
            "exit_code": int(code),
            "interrupted": code == ExitCode.INTERRUPTED,
            "error": {"type": type(self.error).__name__, "message": error.message, "hint": error.hint}
            if error
            else None,
            "started": _stamp(self._started),
            "finished": _stamp(time.time()),
            "output": workspace.url or str(workspace.output.absolute()),
            "report": workspace.shown(workspace.report.absolute() / "index.html"),
            "summary": {**summary.counts(), "left": summary.left} if summary else None,
            "failed": [{"id": one.id, "message": one.error.message} for one in records if one.error],
            "flagged": [
                {"id": one.id, "checks": list(dict.fromkeys(f.check for f in one.findings if f.flags))}
                for one in records
                if one.flagged
            ],
        }

    def _said(self) -> TilehiresError | None:
        if self.error is None or isinstance(self.error, TilehiresError):
            return self.error
        return TilehiresError(
            f"Unexpected {type(self.error).__name__}: {self.error}.",
            hint="This is a bug in tilehires or a library. Run it again with -v for the traceback.",
        )

    def _words(self) -> Sequence[str]:
        """The command's words; none where it is an address, or nothing."""
        asked = self._settings.on_finish
        if not isinstance(asked, str):
            return asked
        return [] if is_address(asked) else shlex.split(asked)

    def _tell(self) -> str:
        """Start the command, or call the address; what went wrong with that, in a sentence, or ""."""
        asked, seconds = self._settings.on_finish, self._settings.on_finish_seconds
        data = json.dumps(self.body()).encode("ascii")
        why = ""
        if words := self._words():
            why = _ran(words, data, seconds)
        elif isinstance(asked, str) and asked:
            why = _posted(asked, data, seconds)
        return why and f"run.on_finish: {why}."


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _ran(words: Sequence[str], data: bytes, seconds: float) -> str:
    """Run a program with `data` on its standard input, in no shell. What it prints goes to stderr."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
    except (OSError, ValueError) as error:
        return f"{words[0]} can't be started ({error})"
    try:
        process.communicate(data, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"{words[0]} took longer than {seconds:g} s and was ended (run.on_finish_seconds)"
    finally:
        if process.poll() is None:  # late, or Ctrl-C
            _end(process)
    return f"{words[0]} ended with exit code {process.returncode}" if process.returncode else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program, and on POSIX all that it started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its data, and maybe at a stranger's."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


def _posted(address: str, data: bytes, seconds: float) -> str:
    """POST `data` to `address`. Errors name the host alone: the rest of an address is often its secret."""
    host, said = urlsplit(address).hostname, ["took longer than the limit"]
    headers = {"Content-Type": "application/json", "User-Agent": f"tilehires/{__version__}"}
    request = urllib.request.Request(address, data, headers, method="POST")

    def post() -> None:
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds):
                said[0] = ""
        except urllib.error.HTTPError as error:
            said[0] = f"answered {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            said[0] = f"can't be reached ({getattr(error, 'reason', error)})"

    # The library's time limit is one for each packet; a thread holds the whole.
    thread = threading.Thread(target=post, name="tilehires-on-finish", daemon=True)
    thread.start()
    thread.join(seconds)
    return said[0] and f"{host} {said[0]}"
