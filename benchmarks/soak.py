"""Kill the run at random moments, go on, compare: what "nothing lost, whatever happens" is worth.

    python -m benchmarks.soak [--kills 100] [--seed 7] [--minutes 120]

A folder of small images (a photograph with a face: hires, a detail pass, two tiled passes, checks; a drawing; two that
need no model) is finished once undisturbed. Then runs of it are ended by SIGKILL, SIGTERM or SIGINT to the whole process
group, and continued, killed again now and then, until one gets through. A third of the kills come at a random moment of the
run's length, the others at one of a stage, or of another part of the run, that is drawn first: else all would strike the
longest. All the while the output folder is read again and again. Printed at the end: the kills by where they struck, and
how often each of these was broken, which must be never:
- a file under its final name that isn't, byte for byte, the undisturbed run's
- a run that got through, whose images, or whose report but for its volatile fields (docs/report-json.md), differ from it
- temporary files after a run that got through; a process that stayed; a wrong exit code
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

from tilehires.batch import final, maker, process, runner
from tilehires.batch.store import Store
from tilehires.cli import main as tilehires
from tilehires.errors import ExitCode
from tilehires.files import TEMPORARY
from tilehires.records import comparable

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OURS = ("report", ".tilehires")
FACE = '[[detail]]\ndetector = "face"\nwidth = 128\nheight = 128\nsteps = 2\n'
NO_MODEL = '[hires]\ndenoise = 0\nupscaler = "Lanczos"\n[tiled]\ndenoise = 0\nupscaler = "Lanczos"\n'
EARLY = "before the first image"
LATE = "the report and the end"
BETWEEN = "reading, looking up, between stages"


def drawn(folder: Path) -> None:
    """The images; 20 px and more, so that a run takes seconds."""
    folder.mkdir()
    Image.fromarray(astronaut()[50:210, 150:310]).resize((40, 40)).save(folder / "face.png")
    (folder / "face.toml").write_text(FACE, encoding="utf-8")
    for number in range(3):
        y, x = np.mgrid[0:20, 0:24]
        waves = [0.5 + 0.3 * np.sin(x / (5 + number + c)) * np.cos(y / (7 + c)) for c in range(3)]
        noise = np.random.default_rng(number).normal(0, 0.03, (20, 24, 3))
        pixels = (np.clip(np.stack(waves, -1) + noise, 0.05, 0.95) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        if number:
            (folder / f"{number}.toml").write_text(NO_MODEL, encoding="utf-8")


class Place:
    """Where a run stands, in memory that it shares with us: whatever ends it, we know where it was."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 64)

    @property
    def name(self) -> str:
        return self._page[:].rstrip(b"\0").decode()

    @name.setter
    def name(self, name: str) -> None:
        self._page[:] = name.encode().ljust(64, b"\0")

    def watch(self) -> None:
        """Note from now on what this process is at."""
        self._around(maker, "begin", lambda *_: BETWEEN)
        self._around(process.ladder, "run", lambda stage, *_: stage.name)
        self._around(Store, "put", lambda _, __, stage, *___: f"storing {stage.name}")
        self._around(final, "write", lambda *_: "encoding the file")
        self._around(process.Workspace, "publish", lambda *_: "moving the file to its name")
        self._around(process.Workspace, "write_record", lambda *_: "writing the record")
        self._around(runner, "report_of", lambda *_: LATE)

    def _around(self, owner: Any, call: str, name: Callable[..., str]) -> None:
        real = getattr(owner, call)

        def noted(*arguments: Any, **named: Any) -> Any:
            self.name = name(*arguments)
            try:
                return real(*arguments, **named)
            finally:
                self.name = LATE if owner is runner and call == "report_of" else BETWEEN

        setattr(owner, call, noted)


def outputs(folder: Path) -> dict[str, bytes]:
    """The finished files, by path; one that is replaced while we read is left out."""
    found = {}
    for place, folders, names in os.walk(folder):  # rglob stumbles over a folder that goes while it looks
        folders[:] = [name for name in folders if place != str(folder) or name not in OURS]
        for path in (Path(place) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def leftovers(folder: Path) -> list[Path]:
    staged = folder / ".tilehires" / "staging"
    return [*folder.rglob(f"*{TEMPORARY}*"), *(staged.iterdir() if staged.is_dir() else ())]


def report(folder: Path) -> Any:
    return comparable(json.loads((folder / "report" / "report.json").read_text(encoding="utf-8")))


@dataclass
class Tally:
    """What happened, and what must not."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    runs: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return self.kills.total()

    def table(self) -> list[str]:
        """The kills by where they struck and what was sent, as Markdown."""
        head = ["| where it struck | " + " | ".join(s.name for s in SIGNALS) + " |", "|---" * (1 + len(SIGNALS)) + "|"]
        places = Counter(place for place, _ in self.kills.elements())
        rows = [
            f"| {place} | " + " | ".join(str(self.kills[place, s.name]) for s in SIGNALS) + " |"
            for place, _ in places.most_common()
        ]
        sums = [str(sum(n for (_, name), n in self.kills.items() if name == s.name)) for s in SIGNALS]
        return [*head, *rows, "| in all | " + " | ".join(sums) + " |"]


class Soak:
    """One folder of images, run again and again. `words`: the command's flags."""

    def __init__(self, root: Path, source: Path, words: Sequence[str], seed: int) -> None:
        self._root, self._words = root, ("run", str(source), *words)
        self._dice, self._place = random.Random(seed), Place()
        self.log = root / "log"
        began = time.monotonic()
        self._spans, code = self._watched(self._started(root / "whole"))
        self.seconds = time.monotonic() - began
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}: {self.log.read_text(encoding='utf-8')}")
        self._images, self._report = outputs(root / "whole"), report(root / "whole")

    def all(self, kills: int, minutes: float = 120) -> Tally:
        """That many kills, each continued; fewer where the time is up."""
        tally, end = Tally(), time.monotonic() + 60 * minutes
        while tally.killed < kills and time.monotonic() < end:
            output = self._root / f"{tally.runs}"
            for _ in range(self._dice.choice((1, 2, 4, 6))):
                what = SIGNALS[tally.killed % len(SIGNALS)]
                if tally.killed == kills or not self._kill(output, what, tally):
                    break
            self._finish(output, tally)
        return tally

    def _started(self, output: Path) -> int:
        """The program in a fork of this process, leading a process group of its own; returns its id."""
        self._place.name = EARLY
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            stream = self.log.open("a", encoding="utf-8")
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            self._place.watch()
            tilehires([*self._words, "-o", str(output)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _watched(self, child: int) -> tuple[dict[str, float], int]:
        """The longest time in seconds that a run was at each place, and its exit code."""
        spans: dict[str, float] = {}
        at, since = self._place.name, time.monotonic()
        while not self._through(child):
            now = time.monotonic()
            if self._place.name != at:
                at, since = self._place.name, now
            spans[at] = max(spans.get(at, 0.0), now - since)
            time.sleep(0.0002)
        return spans, self._ended(child)

    def _through(self, child: int) -> bool:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _ended(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _look(self, output: Path, tally: Tally) -> None:
        """No file may ever stand half-written, or otherwise wrong, under its final name."""
        tally.looks += 1
        if any(self._images.get(name) != data for name, data in outputs(output).items()):
            tally.broken["a wrong file under a final name"] += 1

    def _kill(self, output: Path, what: signal.Signals, tally: Tally) -> bool:
        """Start the run and send it `what` at some moment; False when it got through before."""
        target = self._dice.choice(list(self._spans)) if self._dice.randrange(3) else None
        moment = self._dice.uniform(0, self._spans[target] if target else self.seconds)
        child = self._started(output)
        while target and self._place.name != target and not self._through(child):
            time.sleep(0.0002)
        end = time.monotonic() + moment
        while time.monotonic() < end and not self._through(child):
            self._look(output, tally)
            time.sleep(min(0.02, max(end - time.monotonic(), 0)))
        place, sent = self._place.name, time.monotonic()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group as yet, or is through
            os.killpg(child, what)
        code = self._ended(child)
        if code == ExitCode.OK:
            return False
        tally.waits.append(time.monotonic() - sent)
        tally.kills[place, what.name] += 1
        # Before the program has set its handlers, a signal ends Python itself.
        early = (-what, ExitCode.INTERRUPTED) if place == EARLY else (ExitCode.INTERRUPTED,)
        if code not in ((-what,) if what is signal.SIGKILL else early):
            tally.broken[f"exit code {code} after {what.name} at: {place}"] += 1
        if stayed(child):
            tally.broken[f"a process that stayed after {what.name}"] += 1
        self._look(output, tally)
        return True

    def _finish(self, output: Path, tally: Tally) -> None:
        """Let it get through, and compare."""
        child = self._started(output)
        while not self._through(child):
            self._look(output, tally)
            time.sleep(0.02)
        code = self._ended(child)
        tally.runs += 1
        checks = {
            f"exit code {code} of the continued run": code != ExitCode.OK,
            "other images": outputs(output) != self._images,
            "another report": not code and report(output) != self._report,
            "orphaned temporary files": bool(leftovers(output)),
            "a process that stayed": stayed(child),
        }
        tally.broken.update(name for name, wrong in checks.items() if wrong)


def stayed(group: int, seconds: float = 5) -> bool:
    """Whether a process of that group is still there after that time."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--minutes", type=float, default=120, help="End after that time, with the kills that were done."
    )
    asked = parser.parse_args()
    words = ("--scale", "4", "--steps", "2", "--denoise", "0.3", "--device", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drawn(root / "in")
        soak = Soak(root, root / "in", (*words, "--set", "run.step_checkpoint=0"), asked.seed)
        tally = soak.all(asked.kills, asked.minutes)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores"
    )
    print(f"undisturbed: {soak.seconds:.1f} s; seed {asked.seed}; {tally.killed} kills, {tally.runs} runs continued to")
    print(f"their end; {tally.looks} looks at the output folder meanwhile")
    waits = sorted(tally.waits)
    print(f"from signal to end: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s\n")
    print("\n".join(tally.table()))
    print(f"\nbroken promises: {tally.broken.total()}" + "".join(f"\n  {k}: {n}" for k, n in tally.broken.items()))
    return 1 if tally.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
