"""`tilehires models fetch` against a small hub of our own: what is fetched, what is refused, and what is said offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tilehires.errors import ExitCode, MissingError

FILES = {
    "me/one": {"model.safetensors": b"one", "README.md": b"x", "code.py": b"x"},
    "me/many": {"a.safetensors": b"a", "sub/b.safetensors": b"bb", "c.pth": b"pickle"},
    "me/pickle": {"only.ckpt": b"pickle"},
    "me/empty": {"README.md": b"x"},
    "me/folder": {
        **{"model_index.json": b"{}", "unet/config.json": b"{}", "unet/model.safetensors": b"u", "run.py": b"evil"},
        **{"unet/model.fp16.safetensors": b"half", "unet/model.bin": b"pickle", "folder.safetensors": b"all"},
    },
}
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs."""

    def do_HEAD(self) -> None:  # noqa: N802 - http.server's name
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        path = self.path.partition("?")[0]
        for name, files in FILES.items():
            if path in (
                f"/api/models/{name}",
                f"/api/models/{name}/revision/main",
                f"/api/models/{name}/revision/{COMMIT}",
            ):
                listed = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return self._answer(json.dumps(listed).encode())
            if path.startswith(f"/api/models/{name}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": len(body), "oid": "b" * 40} for file, body in files.items()
                ]
                return self._answer(json.dumps(tree).encode())
            for revision in ("main", COMMIT):
                file = path.removeprefix(f"/{name}/resolve/{revision}/")
                if file != path and file in files:
                    return self._answer(files[file], {"X-Repo-Commit": COMMIT, "ETag": f'"{abs(hash(files[file]))}"'})
                if file != path:
                    return self._answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)
        if "locked" in path:
            return self._answer(b"", {"X-Error-Code": "GatedRepo"}, 403)
        return self._answer(b"", {"X-Error-Code": "RepoNotFound"}, 404)

    def _answer(self, body: bytes, headers: dict[str, str] | None = None, code: int = 200) -> None:
        self.send_response(code)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def fetch(place: Path, endpoint: str, *lines: str, **more: str) -> list[tuple[int, str]]:
    """(exit code, all that was said) of each `tilehires models fetch` line, run in one process in `place`."""
    code = (
        "import contextlib, io, json, sys\nfrom tilehires.cli import main\nended = []\n"
        "for line in sys.argv[1:]:\n    said = io.StringIO()\n"
        "    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):\n"
        "        try: main(['models', 'fetch', *line.split()])\n        except SystemExit as end: code = int(end.code or 0)\n"
        "    ended.append((code, said.getvalue()))\nprint(json.dumps(ended))\nassert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(place / "hf"), **more}
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], capture_output=True, text=True, cwd=place, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_what_is_asked_for_is_fetched_and_nothing_else(tmp_path: Path, hub: str) -> None:
    lines = ["me/one", "me/many sub/b.safetensors", "me/many c.pth --allow-pickle --to up", "me/folder"]
    ended = fetch(tmp_path, hub, *lines)
    assert [code for code, _ in ended] == [0] * 4, ended
    assert tree(tmp_path / "models") == {"model.safetensors": b"one", "b.safetensors": b"bb"}
    assert tree(tmp_path / "up") == {"c.pth": b"pickle"}
    snapshot = tmp_path / "hf" / "hub" / "models--me--folder" / "snapshots" / COMMIT
    wanted = {"model_index.json": b"{}", "unet/config.json": b"{}", "unet/model.safetensors": b"u"}
    assert tree(snapshot) == wanted, "no code, no pickles, no second copy of the weights"
    assert "me/folder" in ended[3][1]


def test_what_cant_be_fetched_is_said(tmp_path: Path, hub: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.safetensors").write_bytes(b"mine")
    cases = {
        "nonsense": (ExitCode.USAGE, "no hub id"),
        "../x": (ExitCode.USAGE, "is no "),
        "me/none": (ExitCode.MISSING, "There is no me/none"),
        "me/locked": (ExitCode.MISSING, "terms accepted"),
        "me/one gone.safetensors": (ExitCode.MISSING, "no file gone.safetensors"),
        "me/one code.py": (ExitCode.USAGE, "no weights file"),
        "me/many": (ExitCode.USAGE, "a.safetensors, sub/b.safetensors"),
        "me/many c.pth": (ExitCode.USAGE, "--allow-pickle"),
        "me/pickle": (ExitCode.USAGE, "is a pickle"),
        "me/empty": (ExitCode.MISSING, "holds no weights"),
        "me/many a.safetensors": (ExitCode.USAGE, "is there already"),
    }
    for (line, (code, word)), (ended, said) in zip(cases.items(), fetch(tmp_path, hub, *cases), strict=True):
        assert (ended, word in said, "hint: " in said) == (code, True, True), f"{line}: {ended} {said}"
    assert tree(tmp_path / "models") == {"a.safetensors": b"mine"}


def test_offline_it_says_so(tmp_path: Path) -> None:
    lines = ("me/one", "me/one model.safetensors")
    for code, said in fetch(tmp_path, "http://127.0.0.1:9", *lines, HF_HUB_OFFLINE="1"):
        assert code == ExitCode.MISSING and "can't be reached" in said and "HF_HUB_OFFLINE" in said
    assert not (tmp_path / "models").exists() or not tree(tmp_path / "models")


def test_a_connection_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the boundary: the hub's own retries take half a minute."""
    from huggingface_hub import errors

    from tilehires.diffusion import fetch as fetching

    def broken(*_: object, **__: object) -> None:
        raise errors.HTTPError("connection refused")  # pyright: ignore[reportPrivateImportUsage]

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", broken)
    with pytest.raises(MissingError, match="can't be reached: connection refused"):
        fetching.fetch("me/one", None, tmp_path)


def test_doctor_and_errors_name_files_that_people_use() -> None:
    from tilehires import upscalers
    from tilehires.config import known_models
    from tilehires.diffusion import checkpoints

    for look, word in ((checkpoints.inspect, "juggernautXL"), (upscalers.resolve, "4x-UltraSharp")):
        with pytest.raises(MissingError) as caught:
            look("gone.safetensors")
        assert word in caught.value.hint and "./models" in caught.value.hint
    with pytest.raises(MissingError) as caught:
        checkpoints.inspect("someone/something")
    assert "tilehires models fetch someone/something" in caught.value.hint
    assert len(known_models.ALL) == 4
