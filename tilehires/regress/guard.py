"""Run and approve: render, compare, judge."""

from __future__ import annotations

import datetime
import getpass
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilehires.errors import ConfigError, Interrupted, TilehiresError
from tilehires.regress import baseline as baselines
from tilehires.regress.baseline import Baseline
from tilehires.regress.compare import METRICS, compare
from tilehires.regress.render import Identity, Render, identify, render
from tilehires.regress.suite import Case, Suite
from tilehires.regress.verdict import RenderError, Result

LIBRARIES = ("tilehires", "torch", "diffusers", "transformers", "spandrel", "numpy", "pillow", "opencv-python")
RENDERS = 3


def check(
    suite: Suite, cases: Sequence[Case], *, any_environment: bool = False, said: Callable[[Result], None] | None = None
) -> list[Result]:
    """Render cases and compare each with its baseline. Nothing is approved, whatever happens.

    `any_environment`: a baseline of another environment will do, by the metrics' own floors. `said` hears each result.
    A case that can't be rendered is a result too; a suite that can't be begun (a missing model) is one for every case.
    """
    results = []
    for case in cases:
        began = time.monotonic()
        result = replace(_checked(suite, case, any_environment), seconds=time.monotonic() - began)
        results.append(result)
        if said:
            said(result)
    return results


def approve(
    suite: Suite,
    cases: Sequence[Case],
    *,
    reason: str,
    renders: int = RENDERS,
    said: Callable[[str], None] | None = None,
) -> list[Path]:
    """Render each case `renders` times; the first becomes the baseline, the others' distances from it the thresholds.

    The reason, who gave it, and what changed against the baseline before are kept beside the picture.
    Raises ConfigError without a reason, and RenderError when a case can't be rendered: those before it are approved.
    """
    if not reason.strip():
        raise ConfigError("An approval needs a reason.", hint='Say why the picture may change: --reason "new sampler".')
    if renders < 2:
        raise ConfigError(f"{renders} renders tell nothing of how renders vary.", hint="Use --renders 2 or more.")
    made = []
    for case in cases:
        identity, first, spreads = _rendered(case, renders)
        old = baselines.find(suite.baselines, case.name, identity.environment)
        entry = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "who": _who(suite.path.parent),
            "reason": reason.strip(),
            "renders": renders,
            "change": _change(old, first),
        }
        new = Baseline(
            environment=identity.environment,
            input_sha256=identity.input_sha256,
            pixels_sha256=baselines.digest(first.pixels),
            settings=identity.settings,
            versions={library: version(library) for library in LIBRARIES},
            limits={metric.name: metric.limit(spreads[metric.name]) for metric in METRICS},
            history=(*(old.baseline.history if old.baseline else ()), entry),
        )
        made.append(baselines.save(suite.baselines, case.name, new, first.png))
        if said:
            said(f"approved   {case.name}: {entry['change']}, {renders} renders")
    return made


def _rendered(case: Case, renders: int) -> tuple[Identity, Render, Mapping[str, Sequence[float]]]:
    """What a case's renders are named by, the first of them, and by metric how far the others are from it."""
    try:
        identity, first = identify(case), render(case)
        others = [compare(render(case).pixels, first.pixels).values for _ in range(renders - 1)]
    except Interrupted:
        raise
    except TilehiresError as error:
        raise RenderError(f"{case.name} can't be rendered: {error.message}", hint=error.hint) from error
    return identity, first, {metric.name: [one[metric.name] for one in others if one] for metric in METRICS}


def _checked(suite: Suite, case: Case, any_environment: bool) -> Result:
    try:
        identity = identify(case)
        found = baselines.find(suite.baselines, case.name, identity.environment, any_environment=any_environment)
        key = identity.environment.key
        if found.baseline is None or found.pixels is None:
            made = render(case).pixels  # for whoever approves; a case that can't even be rendered is a crash
            hint = "Look at the new render and approve it: tilehires regress approve."
            return Result(case.name, "missing", f"{found.reason} {hint}", environment=key, made=made)
        baseline = found.baseline
        if baseline.input_sha256 != identity.input_sha256:
            message = "The input isn't the one that was approved. Approve the case again, or restore the input."
            return Result(case.name, "missing", message, environment=key, reference=found.pixels)
        made = render(case).pixels
    except (Interrupted, KeyboardInterrupt):
        raise
    except TilehiresError as error:
        return Result(case.name, "crash", f"{error.message} {error.hint}".rstrip())
    comparison = compare(made, found.pixels)
    limits = {} if found.elsewhere else dict(baseline.limits)
    failed = comparison.failures(limits)
    if case.exact and not comparison.identical and not found.elsewhere and not failed:
        failed = ["exact"]
    changed = _changed(baseline, identity)
    message = f"Compared with a baseline of {baseline.environment.key}." if found.elsewhere else ""
    if "size" in failed:
        size = f"{made.shape[1]}x{made.shape[0]} for {found.pixels.shape[1]}x{found.pixels.shape[0]}"
        message = f"The size changed: {size}. {message}".rstrip()
    return Result(
        case.name,
        "regression" if failed else "pass",
        message,
        environment=key,
        values=comparison.values,
        limits={m.name: limits.get(m.name, m.floor) for m in METRICS},
        failed=tuple(failed),
        box=comparison.box,
        identical=comparison.identical,
        changed_settings=changed,
        made=made,
        reference=found.pixels,
    )


def _changed(baseline: Baseline, identity: Identity) -> dict[str, Any]:
    """Settings that differ from the approved ones: "section.key" → [then, now]."""
    return {
        name: [baseline.settings.get(name), identity.settings.get(name)]
        for name in sorted({*baseline.settings, *identity.settings})
        if baseline.settings.get(name) != identity.settings.get(name)
    }


def _change(old: baselines.Found, new: Render) -> str:
    if old.baseline is None or old.pixels is None:
        return f"the one before is lost: {old.reason}" if old.damaged else "first baseline of this environment"
    comparison = compare(new.pixels, old.pixels)
    if not comparison.same_size:
        return "another size than before"
    if comparison.identical:
        return "same pixels as before"
    return ", ".join(f"{name} {value:.4g}" for name, value in comparison.values.items()) + " against the one before"


def _who(folder: Path) -> str:
    """The committer's name where there is one, else the account's."""
    if git := shutil.which("git"):
        answer = subprocess.run(
            [git, "config", "user.name"], cwd=folder, capture_output=True, text=True, check=False, timeout=10
        )
        if answer.stdout.strip():
            return answer.stdout.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "unknown"


def statuses(results: Sequence[Result]) -> Iterator[tuple[str, int]]:
    """(status, how many), worst first, those that occur."""
    for status in ("crash", "regression", "missing", "pass"):
        if count := sum(result.status == status for result in results):
            yield status, count
