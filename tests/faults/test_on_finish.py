"""run.on_finish: whoever is to be told is told, whatever the run came to, and can do it no harm."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.batches import FAST, Workplace, draw
from tilehires.batch import runner
from tilehires.config import Config
from tilehires.errors import ConfigError, DiskFullError, ExitCode

QUICK = (*FAST, "--set", "run.decode_isolated=false")
KEEP = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read()); print('told')"


def telling(*words: str | Path) -> tuple[str, str]:
    return "--set", "run.on_finish=" + json.dumps([str(word) for word in words])


def kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_nobody_is_told_where_nobody_is_named(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process, or a connection")

    monkeypatch.setattr("subprocess.Popen.__init__", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    draw(place.input / "a.png")
    ended = place.run(*QUICK)
    assert ended.code == ExitCode.OK and "on_finish" not in ended.out + ended.err
    assert kept(place.output / "report" / "summary.json")["text"] == "1 done, 0 flagged, 0 failed, 0 skipped."


def test_a_command_gets_the_summary(place: Workplace) -> None:
    """A file's name is data: it is in no word of the command, and no shell reads it."""
    evil = '$(touch "$HOME"-pwned) `id`; rm -rf x\n.png'
    draw(place.input / "a.png")
    (place.input / evil).write_bytes(b"no image")
    told = place.root / "told.json"
    words = f"{sys.executable} -c {json.dumps(KEEP)} '{told}'"
    both = (telling(sys.executable, "-c", KEEP, told), ("--set", f"run.on_finish={words}"))
    for cached, asked in enumerate(both):
        assert place.run(*QUICK, *asked).code == ExitCode.IMAGES_FAILED
        body = kept(told)
        told.unlink()
        assert body["exit_code"] == 3 and not body["interrupted"] and body["error"] is None
        counts = {"done": 1, "cached": cached, "flagged": 0, "failed": 1, "skipped": 0, "left": 0}
        assert body["summary"] == counts
        assert [one["id"] for one in body["failed"]] == [evil] and body["flagged"] == []
        assert body["output"] == str(place.output) and Path(body["report"]).is_file()
        written = kept(place.output / "report" / "summary.json")
        assert {**body, "finished": ""} == {**written, "finished": ""}
    report = (place.output / "report" / "report.json").read_text(encoding="utf-8")
    assert "run.on_finish" not in json.loads(report)["images"][0]["settings"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit(7)", "exit code 7"),
        ("import time; time.sleep(60)", "longer than 1 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code -9"),
        ("import os, time; os.fork() or time.sleep(60); time.sleep(60)", "longer than 1 s"),
    ],
)
def test_a_command_that_fails_or_hangs_is_a_warning(place: Workplace, script: str, words: str) -> None:
    draw(place.input / "a.png")
    began = time.monotonic()
    ended = place.run(*QUICK, "-q", *telling(sys.executable, "-c", script), "--set", "run.on_finish_seconds=1")
    assert ended.code == ExitCode.OK and time.monotonic() - began < 40
    assert f"warning  run.on_finish: {sys.executable}" in ended.err and words in ended.err


def test_a_program_that_is_not_there_is_said_before_and_after(place: Workplace) -> None:
    draw(place.input / "a.png")
    ended = place.run(*QUICK, *telling("no-such-program", "x"))
    assert ended.code == ExitCode.OK
    assert "no program no-such-program as yet" in ended.err and "can't be started" in ended.out


def test_it_is_told_of_a_run_that_could_not_go_on(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    told = place.root / "told.json"

    def full(*_: Any) -> Any:
        raise DiskFullError("The disk is full: x could not be written.", hint="Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(runner.Maker, "begin", full)
        ended = place.run(*QUICK, *telling(sys.executable, "-c", KEEP, told))
    assert ended.code == ExitCode.USAGE
    body = kept(told)
    assert body["exit_code"] == 2 and body["error"]["type"] == "DiskFullError" and body["summary"]["left"] == 1
    assert body["text"].startswith("The disk is full")

    def press(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    for owner, call in ((runner.Maker, "begin"), (runner, "report_of"), (runner, "set_up")):
        told.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, press)
            assert place.run(*QUICK, *telling(sys.executable, "-c", KEEP, told)).code == ExitCode.INTERRUPTED
        assert kept(told)["exit_code"] == 130 and kept(told)["interrupted"], call


def test_a_bug_at_the_end_is_told_as_one(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    told = place.root / "told.json"
    words = [sys.executable, "-c", KEEP, str(told)]
    settings = {"hires": {"denoise": 0, "upscaler": "Lanczos"}, "run": {"on_finish": words, "decode_isolated": False}}
    monkeypatch.setattr(runner, "report_of", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        runner.run(Config.load().with_layer(settings, "test"), place.input, place.output)
    body = kept(told)
    assert body["exit_code"] == ExitCode.BUG and body["error"]["type"] == "ZeroDivisionError" and body["error"]["hint"]
    assert body["summary"]["done"] == 1 and body["text"].startswith("Unexpected ZeroDivisionError")


@pytest.mark.parametrize("missing", ["the images", "the upscaler"])
def test_it_is_told_of_a_run_that_could_not_begin(place: Workplace, missing: str) -> None:
    """A drive that isn't mounted, a model that was moved: nobody is there to read the error."""
    told, words = place.root / "told.json", QUICK
    if missing == "the upscaler":
        draw(place.input / "a.png")
        words = (*QUICK, "--set", "hires.upscaler=gone.safetensors")
    ended = place.run(*words, *telling(sys.executable, "-c", KEEP, told))
    body = kept(told)
    assert ended.code == body["exit_code"] != ExitCode.OK and body["error"]["message"] in ended.err
    assert body["summary"] is None


def test_a_run_that_is_killed_leaves_no_earlier_ones_summary(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(place.input / "a.png")
    summary = place.output / "report" / "summary.json"
    assert place.run(*QUICK).code == ExitCode.OK and kept(summary)["exit_code"] == 0
    seen: list[bool] = []
    monkeypatch.setattr(runner, "report_of", lambda *_, **__: seen.append(summary.exists()))
    place.run(*QUICK)
    assert seen == [False], "killed here, last night's summary would say that all went well"


@dataclass
class Site:
    """A web server on this machine: what it got, and what it answers."""

    address: str = ""
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    answer: int = 200
    slow: float = 0.0


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 - the library's name
            site.kinds.append(self.headers["Content-Type"])
            site.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(site.answer)
            self.send_header("Location", site.address + "/elsewhere")
            self.flush_headers()
            for number in range(round(site.slow / 0.1)):
                self.wfile.write(b"X-%d: 1\r\n" % number)
                self.wfile.flush()
                time.sleep(0.1)
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True  # it didn't wait for the end of a slow answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_an_address_gets_a_post(place: Workplace, site: Site) -> None:
    draw(place.input / "a.png")
    address = ("--set", f"run.on_finish={site.address}/hook?secret=1")
    assert place.run(*QUICK, *address).code == ExitCode.OK
    [(path, body)] = site.got
    assert (
        path == "/hook?secret=1" and body["text"] == "1 done, 0 flagged, 0 failed, 0 skipped." and body["version"] == 1
    )
    for site.answer, site.slow, words in ((500, 0.0, "answered 500"), (302, 0.0, "answered 302"), (200, 3.0, "limit")):
        ended = place.run(*QUICK, *address, "--set", "run.on_finish_seconds=1")
        assert ended.code == ExitCode.OK
        assert "warning  run.on_finish: 127.0.0.1" in ended.out and words in ended.out and "secret" not in ended.out
    assert [path for path, _ in site.got] == ["/hook?secret=1"] * 4, "a redirection was followed"
    assert site.kinds == ["application/json"] * 4


def test_an_address_where_nobody_listens_is_a_warning(place: Workplace) -> None:
    draw(place.input / "a.png")
    ended = place.run(*QUICK, "--set", "run.on_finish=http://127.0.0.1:9/secret")
    assert ended.code == ExitCode.OK and "can't be reached" in ended.out and "secret" not in ended.out


@pytest.mark.parametrize(
    "asked",
    [
        *("ftp://a/b", "file:///etc/passwd", "http://[x", "https://", "http://a:b/", "http://a:0/", "http://a:b@c/"),
        *("echo 'x", ["", "x"], " ", ["a\0b"], 5, True, ["a", 5]),
    ],
)
def test_what_nobody_can_be_told_by(asked: Any) -> None:
    with pytest.raises(ConfigError, match="on_finish") as refused:
        Config.load().with_layer({"run": {"on_finish": asked}}, "test")
    assert "Value error" not in str(refused.value)


def test_a_file_beside_an_image_starts_nothing(place: Workplace) -> None:
    """What lies in a folder of images may be a stranger's."""
    draw(place.input / "a.png")
    mark = place.root / "mark"
    text = f"[run]\non_finish = {json.dumps([sys.executable, '-c', KEEP, str(mark)])}\n"
    (place.input / "a.toml").write_text(text, encoding="utf-8")
    ended = place.run(*QUICK)
    assert ended.code == ExitCode.IMAGES_FAILED and "run.on_finish" in ended.out and not mark.exists()
