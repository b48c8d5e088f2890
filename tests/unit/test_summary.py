"""How a run ended: what is counted, what is said, and which exit code follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilehires.batch.summary import Summary
from tilehires.checks import Finding
from tilehires.errors import ExitCode
from tilehires.records import ErrorRecord, FileRecord, Record

FILE = FileRecord("x.png", (1, 1), "")
DONE = Record("done.png", FILE, FILE, "done")
CACHED = replace(DONE, id="cached.png", cached=True)
FLAGGED = replace(DONE, id="flagged.png", findings=(Finding("black", "warning", 1, 0, None, "it is dark"),))
FLAGGED_CACHED = replace(FLAGGED, id="both.png", cached=True)
INFO = replace(DONE, id="info.png", findings=(Finding("size", "info", 1, 0, None, "as it should be"),))
FAILED = Record("failed.png", FILE, None, "failed", error=ErrorRecord("ImageError", "It is broken.", "Copy it again."))
SKIPPED = Record("skipped.md", FILE, None, "skipped", notes=("not an image by its name",))


@pytest.mark.parametrize(
    ("records", "strict", "interrupted", "code"),
    [
        ((), False, False, ExitCode.OK),
        ((DONE, CACHED, SKIPPED, INFO), True, False, ExitCode.OK),
        ((DONE, FLAGGED), False, False, ExitCode.OK),
        ((DONE, FLAGGED), True, False, ExitCode.FLAGGED),
        ((FLAGGED_CACHED,), True, False, ExitCode.FLAGGED),
        ((DONE, FAILED), False, False, ExitCode.IMAGES_FAILED),
        ((FAILED, FLAGGED), True, False, ExitCode.IMAGES_FAILED),
        ((FAILED, FLAGGED), True, True, ExitCode.INTERRUPTED),
    ],
    ids=str,
)
def test_the_exit_code_is_the_first_that_applies(
    records: tuple[Record, ...], strict: bool, interrupted: bool, code: ExitCode
) -> None:
    assert Summary(records, strict=strict, interrupted=interrupted).exit_code == code


def test_every_record_is_counted() -> None:
    everything = (DONE, CACHED, FLAGGED, FLAGGED_CACHED, INFO, FAILED, SKIPPED)
    assert Summary(everything).counts() == {"done": 5, "cached": 2, "flagged": 2, "failed": 1, "skipped": 1}


def test_what_needs_attention_has_a_line() -> None:
    lines = Summary((DONE, FLAGGED, INFO, FAILED, SKIPPED), left=3, interrupted=True, report="out/index.html").lines()
    assert lines[0] == "3 done, 1 flagged, 1 failed, 1 skipped, 3 not reached."
    text = "\n".join(lines)
    for said in (
        "failed   failed.png: It is broken. Copy it again.",
        "flagged  flagged.png: black: it is dark",
        "skipped  skipped.md: not an image by its name",
        "Report: out/index.html",
        "same command goes on",
    ):
        assert said in text
    assert "done.png" not in text and "info.png" not in text


def test_what_was_done_before_is_told_apart() -> None:
    assert Summary((DONE, CACHED)).lines()[0].startswith("2 done (1 already were)")
