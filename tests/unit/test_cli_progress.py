"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import sys

import pytest

from tilehires.cli.bars import Bars, Lines, progress_for
from tilehires.progress import SilentBatch


def test_bars_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress_for(quiet=False, verbose=False) as progress:
        assert isinstance(progress, Lines), "no terminal, no bars"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_for(quiet=False, verbose=False) as progress:
        assert isinstance(progress, Bars)
    with progress_for(quiet=True, verbose=True) as progress:
        assert type(progress) is SilentBatch


def test_bars_take_all_calls_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(verbose=True)
    bars.advance()
    bars.note("before the batch")
    bars.begin_batch(2)
    bars.begin_image("a.png")
    bars.begin("hires: sampling", 4)
    bars.advance(4)
    bars.begin("hires: decoding", 1)
    bars.note("a note")
    bars.begin_image("b.png")
    bars.end_image("a.png", "done")
    bars.end_image("b.png", "failed")
    bars.end_batch()
    bars.close()
    err = capsys.readouterr().err
    assert "2/2" in err and "a note" in err and "a.png: done" in err and "b.png: failed" in err


def test_lines_say_notes_and_with_verbose_each_image(capsys: pytest.CaptureFixture[str]) -> None:
    each = "[1/2] a.png: done\n[2/2] b.png: failed\n[1/1] c.png: done\n"
    for verbose, expected in ((False, "a note\n"), (True, f"a note\n{each}")):
        lines = Lines(verbose=verbose)
        lines.begin_batch(2)
        lines.begin_image("a.png")
        lines.begin_image("b.png")
        lines.begin("hires", 3)
        lines.advance()
        lines.note("a note")
        lines.end_image("a.png", "done")
        lines.end_image("b.png", "failed")
        lines.end_batch()
        lines.begin_batch(1)  # more came into a folder that is watched
        lines.end_image("c.png", "done")
        assert capsys.readouterr().err == expected


def test_a_name_can_forge_no_line_and_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a.png\n[1/1] b.png: done\x1b[2J\u202egnp.\u00e9 \u3000"
    for progress in (Lines(verbose=True), Bars(verbose=True)):
        progress.begin_batch(1)
        progress.begin_image(name)
        progress.note(name)
        progress.end_image(name, "failed")
        progress.end_batch()
        said = capsys.readouterr().err
        assert "a.png\\n[1/1] b.png: done\\x1b[2J\\u202egnp.\u00e9 \u3000: failed" in said
        assert "\n[1/1] b.png" not in said and "\u202e" not in said and "\x1b[2J" not in said
