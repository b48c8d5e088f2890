"""What a finished object store costs the next run: requests and seconds until every output is known to stand.

    python -m benchmarks.stores [--images 1000]

moto's S3 on this machine, so the seconds are mostly moto's: read the requests. A listing answers for a thousand objects.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import s3fs
from moto.server import ThreadedMotoServer

from tilehires.batch import object_lock
from tilehires.batch.known import Note, Version, note_of
from tilehires.batch.objects import Objects
from tilehires.batch.workspace import Workspace
from tilehires.records import FileRecord, Record

URL = "s3://bucket/finished"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    images = parser.parse_args().images
    requests, log = Requests(), logging.getLogger("werkzeug")
    log.propagate, log.handlers = False, [requests]
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    object_lock.SETTLE = 0.0
    files = _filled(images)
    with tempfile.TemporaryDirectory() as half:
        for what in ("a machine that knows nothing of it", "the same machine again"):
            requests.counts.clear()
            began = time.perf_counter()
            with (workspace := Workspace(Path(half), url=URL)).locked():
                standing = sum(workspace.stands(file) for file in files)
            told = ", ".join(f"{count} {name}" for name, count in sorted(requests.counts.items()))
            print(f"{what}: {standing} of {images} outputs stand, {time.perf_counter() - began:.1f} s: {told}")
    served.stop()


def _filled(images: int) -> list[FileRecord]:
    """A store as a run of so many images leaves it, less the previews."""
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("bucket")
    folder, data = URL.removeprefix("s3://"), {f"{number:05}.png": b"%d" % number for number in range(images)}
    fs.pipe({f"{folder}/{name}": pixels for name, pixels in data.items()})
    tags, state, files = Objects(URL).listing(), dict[str, Any](), []
    for name, pixels in data.items():
        files.append(FileRecord(name, (1, 1), hashlib.sha256(pixels).hexdigest()))
        state[note_of(name)] = Note(name, Version(files[-1].sha256, len(pixels), tags[name])).to_json()
        record = Record(name, files[-1], files[-1], "done").to_json()
        state[note_of(name).replace("/outputs/", "/records/")] = record
    fs.pipe({f"{folder}/{name}": json.dumps(body).encode() for name, body in state.items()})
    return files


class Requests(logging.Handler):
    """Counts what the server says it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        method = next((one for one in ("GET", "HEAD", "PUT", "DELETE") if f"{one} /" in line), "")
        if method:
            self.counts["LIST" if "list-type" in line else method] += 1


if __name__ == "__main__":
    main()
