"""A decoding process whose decoder does what the file's name says: what a broken C library can do to its process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from tilehires.images import worker

ENTRY = f"""
import sys
sys.path.append(sys.argv[1])
sys.path.append({str(Path(__file__).parents[1])!r})
from tests.hostile_worker import main
main()
"""
"""For `tilehires.images.decoder.ENTRY`."""
PROMISE = {"shape": [1, 10**12, 4], "dtype": "uint16"}

decode = worker.decode


def main() -> None:
    setattr(worker, "decode", misbehave)  # noqa: B010 - pyright knows that it is a function
    worker.main()


def misbehave(path: Path, **options: Any) -> Any:
    match path.stem:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "hang":
            while True:
                ctypes.CDLL(None).usleep(100_000)
        case "memory":
            bytearray(3 << 30)
        case "nonsense":
            for handle in range(3, 10):  # wherever the answers go
                try:
                    os.write(handle, b"\xff" * 64)
                except OSError:
                    continue
        case "promise":
            for handle in range(3, 10):
                try:
                    worker.send(os.fdopen(handle, "wb", closefd=False), PROMISE)
                except OSError:
                    continue
        case "prints":
            os.write(1, b"libexample: warning\n")
        case "writes":
            Path(os.environ["HOSTILE_TARGET"]).write_bytes(b"x" * 100)
        case "bug":
            raise ZeroDivisionError("a bug in Python")
    return decode(path, **options)
