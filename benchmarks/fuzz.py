"""Mutated files through everything that strangers' bytes reach: decoders, metadata, prompts, TOML, models, kept files.

    python -m benchmarks.fuzz [--cases 100000] [--skip 0] [--minutes 60]

Ends with 1 where a case raised what no user can act on, or took longer than its limit; each is named and can be made
again with tests.fuzzing.data. "died": the decoding process crashed, hung or took too much memory, which costs an image.
"""

from __future__ import annotations

import argparse
import collections
import platform
import re
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from tests.fuzz_targets import TARGETS
from tests.fuzzing import Places, attempt, cases
from tilehires.images import Isolated


def peak(process: str) -> str:
    """The most that a process has held in memory, as Linux tells it."""
    said = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    kilobytes = re.search(r"VmHWM:\s+(\d+)", said)
    return f"{int(kilobytes[1]) >> 10} MiB" if kilobytes else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--skip", type=int, default=0, help="Leave out the first so many, which another run has done.")
    parser.add_argument("--minutes", type=float, default=60, help="End after that time, with the cases that were done.")
    asked = parser.parse_args()
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest: dict[str, float] = collections.defaultdict(float)
    bugs: list[str] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Isolated(20) as decoder:
        places = Places(Path(folder), decoder)
        for done, (target, number) in enumerate(islice(cases(TARGETS, asked.cases), asked.skip, None), 1):
            try:
                ended, took = attempt(target, number, places)
            except AssertionError as error:
                ended, took = "bug", 0.0
                bugs.append(str(error))
                print(error, flush=True)
            ends[target.name][ended] += 1
            slowest[target.name] = max(slowest[target.name], took)
            if time.perf_counter() - began > asked.minutes * 60:
                break
            if done % 5000 == 0:
                print(f"... {done} cases, {time.perf_counter() - began:.0f} s", flush=True)
        took = time.perf_counter() - began
        peaks = peak("self"), peak(str(decoder._process.pid) if decoder._process else "self")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pillow", "opencv-python", "safetensors"))
    print(f"\nPython {platform.python_version()}, {libraries}")
    total = sum(sum(one.values()) for one in ends.values())
    print(f"{total:,} cases in {took:.0f} s; peak memory {peaks[0]}, of the decoder {peaks[1]}\n")
    print("| into | cases | read | refused | died | bugs | slowest |\n|---|---|---|---|---|---|---|")
    for target in TARGETS:
        got = ends[target.name]
        counts = " | ".join(f"{got[name]:,}" for name in ("read", "refused", "died", "bug"))
        print(f"| {target.name} | {sum(got.values()):,} | {counts} | {slowest[target.name]:.2f} s |")
    return 1 if bugs else 0


if __name__ == "__main__":
    raise SystemExit(main())
