"""A run into S3 as moto serves it, over HTTP: what fsspec's driver does with our calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.batches import draw, outputs
from tests.faults.test_resume import in_a_fork
from tests.stores import listed, machine, put, stored
from tilehires.batch import object_lock, objects
from tilehires.batch.runner import run
from tilehires.errors import ExitCode, RunError

pytest.importorskip("moto.server", reason="moto isn't installed: pip install 'moto[server]'")
s3fs = pytest.importorskip("s3fs", reason="s3fs isn't installed: pip install s3fs")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 that knows one pair of keys, and one bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bucket")
        yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    served.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, seconds in (("PATIENCE", 0.3), ("LOOK", 0.05), ("SETTLE", 0.0)):
        monkeypatch.setattr(object_lock, name, seconds)
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.0))
    return f"s3://bucket/{uuid4().hex}"


def test_killed_it_goes_on_on_another_machine_to_the_same_bytes(store: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "[b] é.png")):
        draw(tmp_path / "in" / name, 12, 8, seed)
    assert run(machine(tmp_path), tmp_path / "in", tmp_path / "plain").done == 2
    whole = outputs(tmp_path / "plain")

    def die() -> None:
        real, puts = s3fs.S3FileSystem._put_file, list[str]()

        async def second(self: Any, file: str, *rest: Any, **named: Any) -> None:
            puts.append(file)
            await real(self, file, *rest, **named)
            if len(puts) == 3:  # output, record, output
                os._exit(9)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(s3fs.S3FileSystem, "_put_file", second)
            run(machine(tmp_path / "one"), tmp_path / "in", store)

    assert in_a_fork(die) == 9
    assert stored(store) == whole and object_lock.NAME in listed(store)
    again = run(machine(tmp_path / "two"), tmp_path / "in", store)
    assert (again.done, again.cached) == (2, 1)
    assert stored(store) == whole and object_lock.NAME not in listed(store)
    put(f"{store}/a.png", b"another's")
    changed = run(machine(tmp_path / "one"), tmp_path / "in", store)
    assert (changed.cached, changed.failed) == (1, 1) and stored(store)["a.png"] == b"another's"


def test_no_object_is_read_to_know_that_it_is_unchanged(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in" / "a.png", 12, 8)
    run(machine(tmp_path / "one"), tmp_path / "in", store)
    monkeypatch.setattr(objects.Objects, "sha256", None)  # a listing's tags are those of single objects
    monkeypatch.setattr(objects.Objects, "fetch", None)
    assert run(machine(tmp_path / "one"), tmp_path / "in", store).cached == 1


def test_the_lock_is_made_once(store: str) -> None:
    there = objects.Objects(store)
    assert there.create(object_lock.NAME, b"first") and not there.create(object_lock.NAME, b"second")
    assert there.read(object_lock.NAME) == b"first"


def test_what_s3_refuses_is_told(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "in" / "a.png", 12, 8)
    with pytest.raises(RunError, match="no such bucket") as error:
        run(machine(tmp_path / "one"), tmp_path / "in", "s3://nowhere/results")
    assert error.value.exit_code == ExitCode.USAGE
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(RunError, match="NoCredentialsError") as error:
        run(machine(tmp_path / "one"), tmp_path / "in", store)
    assert "credentials" in error.value.hint
    s3fs.S3FileSystem.clear_instance_cache()
