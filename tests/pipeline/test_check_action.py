"""What is done about a flagged image: copied for review, or tried once more and the better one kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.batches import FAST, Workplace, draw, workplace
from tilehires import checks
from tilehires.checks.finding import Finding, measured
from tilehires.geometry import Box

STUB = ("--set", "check.only=['stub']", "--set", "run.decode_isolated=false")
PLAIN = ("--set", "hires.denoise=0.5", "--steps", "2", "--set", "run.metadata=false", *STUB)
RETRY = (*PLAIN, "--set", "check.action=retry")
REVIEW = (*FAST, *STUB)


class Stub:
    """A check that finds the given values in the outputs it sees, in the order it first sees them."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.seen: dict[bytes, float] = {}
        self.before: Callable[[], None] = lambda: None

    def load(self) -> Stub:
        return self

    def __call__(self, output: np.ndarray, input: np.ndarray, tiles: Sequence[Box] | None) -> list[Finding]:
        key = output.tobytes()
        if key not in self.seen:
            self.before()
            self.seen[key] = self.values.pop(0)
        return [measured("stub", self.seen[key], 1.0, None, "")]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = workplace(tmp_path, capsys, monkeypatch)
    draw(made.input / "sub" / "a.png", 24, 16, 1)
    return made


def use(monkeypatch: pytest.MonkeyPatch, *values: float) -> Stub:
    stub = Stub(*values)
    monkeypatch.setattr(checks, "_installed", lambda: {"stub": stub})
    return stub


def output(place: Workplace) -> bytes:
    return (place.output / "sub" / "a.png").read_bytes()


def test_a_flagged_image_is_made_once_more_and_the_better_is_kept(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = use(monkeypatch, 5.0, 3.0)
    assert place.run(*RETRY).code == 0
    made, image = output(place), place.images()["sub/a.png"]
    assert image["flagged"] and not stub.values
    assert [(one["kept"], one["changes"]) for one in image["attempts"]] == [
        (False, {}),
        (True, {"hires.denoise": 0.35, "tiled.overlap": 96}),
    ]
    assert [one["why"] for one in image["attempts"]] == ["", "Its largest value ÷ limit is lower: 3, the other's 5."]
    assert image["settings"]["hires.denoise"]["value"] == 0.35
    assert place.run(*RETRY).code == 0 and place.images()["sub/a.png"]["cached"]
    milder = ("--set", "hires.denoise=0.35", "--set", "tiled.overlap=96")
    assert place.run(*PLAIN, *milder).code == 0 and output(place) == made
    assert place.run(*PLAIN).code == 0 and output(place) != made and not place.images()["sub/a.png"]["attempts"]


def test_an_attempt_says_of_a_detail_pass_only_what_it_changed(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, 5.0, 3.0)
    assert place.run(*RETRY, "--detail", "face").code == 0
    _, second = place.images()["sub/a.png"]["attempts"]
    assert second["changes"] == {"hires.denoise": 0.35, "tiled.overlap": 96, "detail.passes[0].denoise": 0.28}


def test_the_first_is_kept_unless_the_second_is_better_and_what_was_accepted_is_never_made_once_more(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = use(monkeypatch, 3.0, 3.0)
    assert place.run(*PLAIN).code == 0
    first = output(place)
    marks = place.root / "marks.toml"
    digest = place.images()["sub/a.png"]["output"]["sha256"]
    marks.write_text(f'[[mark]]\nid = "sub/a.png"\nverdict = "accept"\nsha256 = "{digest}"\n')
    assert place.run(*PLAIN, "--redo", marks).code == 0
    (place.output / "sub" / "a.png").unlink()
    assert place.run(*RETRY).code == 0 and output(place) == first
    image = place.images()["sub/a.png"]
    assert image["review"] == "accepted" and not image["flagged"] and not image["attempts"] and stub.values == [3.0]
    (place.output / ".tilehires" / "marks.json").unlink()
    assert place.run(*RETRY).code == 0 and output(place) == first and not stub.values
    told = [(one["kept"], one["why"]) for one in place.images()["sub/a.png"]["attempts"]]
    assert told == [(True, "The second is no better: both have the largest value ÷ limit 3."), (False, "")]


def test_an_interrupted_retry_goes_on_and_what_is_good_is_not_tried_again(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, 5.0, 3.0)
    assert place.run(*RETRY, output=place.root / "whole").code == 0
    stub = use(monkeypatch, 5.0, 3.0)

    def stop() -> None:
        if stub.seen:
            stub.before = lambda: None
            raise KeyboardInterrupt

    stub.before = stop
    assert place.run(*RETRY).code == 130
    assert place.run(*RETRY).code == 0
    assert output(place) == (place.root / "whole" / "sub" / "a.png").read_bytes()
    use(monkeypatch, 0.5)
    assert place.run(*RETRY, output=place.root / "good").code == 0, "a second attempt would find no value"


def test_flagged_outputs_have_a_copy_for_review_while_they_are_flagged(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, 5.0)
    action = ("--set", "check.action=review")
    copy = place.output / "review" / "flagged" / "sub" / "a.png"
    assert place.run(*REVIEW).code == 0 and not copy.exists()
    assert place.run(*REVIEW, *action).code == 0 and copy.read_bytes() == output(place)
    assert place.run(*REVIEW, *action).code == 0 and copy.read_bytes() == output(place)
    assert place.run(*REVIEW, *action, "--set", "check.limits={stub = 9}").code == 0 and not copy.exists()
    copy.write_bytes(b"somebody's")
    for limit in (9, 1):
        ended = place.run(*REVIEW, *action, "--set", f"check.limits={{stub = {limit}}}")
        assert ended.code == 0 and copy.read_bytes() == b"somebody's", ended
    assert "didn't make it" in ended.out + ended.err


def test_one_image_cannot_have_an_action_of_its_own(place: Workplace) -> None:
    (place.input / "sub" / "a.toml").write_text('[check]\naction = "retry"\n')
    ended = place.run(*FAST)
    assert ended.code == 3 and "check.action, which is one for all images" in ended.out + ended.err, ended
