"""AUTOMATIC1111's prompt syntax: its rules one by one, and whatever strangers may write."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilehires.diffusion import syntax
from tilehires.diffusion.syntax import Count, Fragment, Part, Tag

PROMPTS = st.text(alphabet="ab ,:|()[]\\<>.0123456789-\nANDBREKé猫", max_size=80)


def weights(text: str) -> list[list[tuple[str, float]]]:
    return [[(one.text, round(one.weight, 6)) for one in section] for section in syntax.emphasis(text)]


def steps(text: str, count: Count | None = None) -> list[tuple[int, str]]:
    """(last step, text) of every stretch of equal texts, in ten steps."""
    found: list[tuple[int, str]] = []
    for step, line in enumerate(syntax.at_each_step(text, count or Count(10)), 1):
        if found and found[-1][1] == line:
            found.pop()
        found.append((step, line))
    return found


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain", [("plain", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", round(1 / 1.1, 6))]),
        ("([x])", [("x", 1.0)]),
        ("(x:1.3)", [("x", 1.3)]),
        ("(x :1.3 )", [("x ", 1.3)]),
        ("((x:1.3) y)", [("x", 1.43), (" y", 1.1)]),
        ("(x:-0.5)", [("x", -0.5)]),
        ("(open, x", [("open, x", 1.1)]),
        ("[open, (x", [("open, ", round(1 / 1.1, 6)), ("x", 1.0)]),
        ("closed) x]", [("closed) x]", 1.0)]),
        (r"\(x\) \[y\] \\", [("(x) [y] \\", 1.0)]),
        ("x:1.2)", [("x:1.2)", 1.0)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(one)(two)", [("onetwo", 1.1)]),
        ("a (((b:1.3)) [c] (d:0.5))", [("a ", 1.0), ("b", 1.573), (" ", 1.1), ("c", 1.0), (" ", 1.1), ("d", 0.55)]),
        ("(x:999999999)", [("x", 100.0)]),
    ],
)
def test_emphasis(text: str, want: list[tuple[str, float]]) -> None:
    assert weights(text) == [want]


def test_break_cuts_sections_also_inside_brackets() -> None:
    assert weights("a BREAK b") == [[("a ", 1.0)], [(" b", 1.0)]]
    assert weights("(a BREAK b:1.2) c") == [[("a ", 1.2)], [(" b", 1.2), (" c", 1.0)]]
    assert weights("BREAK") == [[], []]
    assert weights("BREAKS break") == [[("BREAKS break", 1.0)]]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain", [(10, "plain")]),
        ("a [b:3] c", [(3, "a  c"), (10, "a b c")]),
        ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
        ("[a:b:0.25]", [(2, "a"), (10, "b")]),
        ("[a::.5]", [(5, "a"), (10, "")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:99]", [(10, "a")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("[(a:1.2):[b]:3]", [(3, "(a:1.2)"), (10, "[b]")]),
        ("[a]", [(10, "[a]")]),
        ("[a:b]", [(10, "[a:b]")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("a [open", [(10, "a [open")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a (b:c:3]", [(10, "[a (b:c:3]")]),
        ("[a) b:c:3]", [(10, "[a) b:c:3]")]),
        (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
    ],
)
def test_schedules(text: str, want: list[tuple[int, str]]) -> None:
    assert steps(text) == want


def test_alternation_changes_with_every_step() -> None:
    assert syntax.at_each_step("[cow|horse] b", Count(3)) == ("cow b", "horse b", "cow b")
    assert syntax.at_each_step("[fe|]male", Count(2)) == ("female", "male")
    assert syntax.at_each_step("[a|[b|c]]", Count(4)) == ("a", "c", "a", "c"), "step 2 takes the inner one's second"
    assert syntax.at_each_step("[a|(b:1.1)]", Count(2)) == ("a", "(b:1.1)")


def test_later_passes_count_fractions_from_one_and_steps_from_the_first_pass_on() -> None:
    later = Count(10, before=20, later=True)
    assert steps("[a:b:0.5]", later) == [(10, "b")], "0 to 1 is the first pass"
    assert steps("[a:b:1.5]", later) == [(5, "a"), (10, "b")]
    assert steps("[a:b:1.5]") == [(10, "a")]
    assert steps("[a:b:23]", later) == [(3, "a"), (10, "b")]
    assert steps("[a:b:5]", later) == [(10, "b")]


def test_and_joins_prompts_with_weights() -> None:
    assert syntax.parts("a cat") == (Part("a cat"),)
    assert syntax.parts("a AND b :0.5 AND c: -1") == (Part("a "), Part(" b", 0.5), Part(" c", -1.0))
    assert syntax.parts("at 16:9") == (Part("at 16:9"),), "a weight belongs to AND alone"
    assert syntax.parts("SAND and BAND") == (Part("SAND and BAND"),)
    assert syntax.parts("a AND (b:1.2)") == (Part("a "), Part(" (b:1.2)"))


def test_tags_are_taken_out() -> None:
    text, tags = syntax.without_tags("a <lora:style one:0.8:0.5> b<hypernet:x:1><3 <b> <lora:> <lora:cut")
    assert text == "a  b<3 <b> <lora:> <lora:cut"
    assert tags == (Tag("lora", "style one", ("0.8", "0.5")), Tag("hypernet", "x", ("1",)))


@pytest.mark.parametrize(("text", "count"), [("", 0), ("(a) [b]", 0), ("(a", 1), ("a]", 1), (r"\(a", 0), ("([)]", 2)])
def test_brackets_without_partner_are_counted(text: str, count: int) -> None:
    assert syntax.unpaired(text) == count


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a fox, running; 16:9 / f:2.8 [sic", ["weights"]),  # a bracket left open weighs, in A1111 too
        ("a red fox: running", []),
        (r"a fox \(animal\)", []),
        ("a (red:1.2) fox", ["weights"]),
        ("a ((red)) fox BREAK snow", ["weights", "BREAK"]),
        ("a fox AND a hen :0.5", ["AND"]),
        ("a fox by [day:night:0.5]", ["schedules"]),
        ("a [fox|hen]", ["alternation"]),
        ("a fox <lora:style:0.8>", ["tags"]),
        ("SANDBREAK, BRAND", []),
    ],
)
def test_what_other_encoders_take_as_plain_text_is_said(text: str, want: list[str]) -> None:
    notes = syntax.unheard(text)
    assert [note.split()[0].strip(":,") for note in notes] == want
    assert all(note.endswith("takes it as plain text") for note in notes)


@given(PROMPTS)
@settings(max_examples=300)
@example("(" * 50)
@example("[a:" * 9 + ":1]" * 9)
def test_nothing_crashes_and_no_letter_is_lost(text: str) -> None:
    sections = syntax.emphasis(text)
    assert len(sections) >= 1
    assert all(isinstance(one, Fragment) and abs(one.weight) <= 100 for section in sections for one in section)
    kept = "".join(one.text for section in sections for one in section)
    letters = [c for c in text.replace("BREAK", "") if c in "abé猫,"]
    assert [c for c in kept.replace("BREAK", "") if c in "abé猫,"] == letters, "brackets and weights may go, words not"
    assert len(syntax.unheard(text)) <= 6
    rendered = syntax.at_each_step(text, Count(7))
    assert len(rendered) == 7
    assert all(set(line) <= set(text) for line in rendered)
    bare, tags = syntax.without_tags(text)
    assert len(bare) <= len(text)
    assert syntax.without_tags(bare)[0] == bare or tags
    assert "".join(part.text for part in syntax.parts(text)) or not text.replace("AND", "").strip(" :\n-.0123456789")
    assert syntax.unpaired(text) >= 0


@given(st.text(alphabet="ab, é猫", max_size=60))
@settings(max_examples=100)
def test_text_without_syntax_is_left_alone(text: str) -> None:
    assert syntax.at_each_step(text, Count(3)) == (text,) * 3
    assert weights(text) == [[(text, 1.0)] if text else []]
    assert syntax.without_tags(text) == (text, ())
    assert syntax.parts(text) == (Part(text),)


@given(st.lists(st.sampled_from(["[a:b:3]", "[a|b]", "(a)", "[", "]", "(", ")", " x ", ":", "|"]), max_size=12))
@settings(max_examples=200)
def test_what_stands_alone_spoils_nothing_after_it(pieces: list[str]) -> None:
    """A schedule behind any ended text is still a schedule, as long as no bracket before it could hold it."""
    text = "".join(pieces)
    if syntax.unpaired(text):
        return
    assert syntax.at_each_step(text + "[c:d:1]", Count(2))[1].endswith("d")


@pytest.mark.parametrize(
    "text",
    ["(" * 50_000, "[" * 25_000 + "]" * 25_000, "[a:" * 8_000 + ":0.5]" * 8_000, "(a:1" * 12_000 + ")" * 12_000]
    + ["<a:" * 16_000, "a AND " * 8_000 + ":", "\\" * 50_000, "[a|" * 16_000 + "]" * 16_000, " " * 50_000 + "BREA"],
    ids=range(9),
)
def test_hostile_prompts_cost_seconds_at_most(text: str) -> None:
    began = time.monotonic()
    syntax.emphasis(text)
    syntax.at_each_step(text, Count(20))
    syntax.without_tags(text)
    syntax.parts(text)
    assert time.monotonic() - began < 20, "it took 0.3 s when it was written: something is quadratic now"
