"""Settings out of images and into them: A1111's infotext in every container, and nothing hostile gets through."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilehires import metadata
from tilehires.config.settings import GenerateSettings, HiresSettings, Settings
from tilehires.geometry import Size
from tilehires.images import FileFormat, Picture, probe, read, write
from tilehires.metadata.a1111 import Infotext, format, parse

CIVITAI = """masterpiece, (cat:1.2), <lora:detail:0.8>
second line, with: colon
Negative prompt: bad hands,
worse feet
Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 1234567890123, Size: 512x768, Model hash: abc123, \
Model: dream/shaper 8, Denoising strength: 0.35, Clip skip: 2, Hires prompt: "a dog, big: 2", Hires upscale: 2, \
Lora hashes: "detail: 1a2b, other: 3c4d", Created Date: 2024-01-01T10:00:00Z, Version: v1.10.1"""


def test_a_civitai_infotext_is_read_whole() -> None:
    found = metadata.read({"parameters": CIVITAI})
    assert found is not None
    assert found.prompt == "masterpiece, (cat:1.2), <lora:detail:0.8>\nsecond line, with: colon"
    assert found.negative_prompt == "bad hands,\nworse feet"
    assert (found.steps, found.sampler, found.scheduler) == (25, "DPM++ 2M", "Karras")
    assert (found.cfg, found.seed, found.size) == (6.5, 1234567890123, Size(512, 768))
    assert (found.model, found.model_hash, found.clip_skip) == ("dream/shaper 8", "abc123", 2)
    assert found.others["Hires prompt"] == "a dog, big: 2", "a quoted value must not be cut at its comma"
    assert found.others["Lora hashes"] == "detail: 1a2b, other: 3c4d"
    assert found.others["Created Date"] == "2024-01-01T10:00:00Z"
    assert found.source == "A1111"


def test_settings_name_only_what_is_known() -> None:
    settings = metadata.from_texts({"parameters": "a cat\nSteps: 8, Sampler: Euler a, Seed: 7, Foo: bar"})
    assert settings == {"prompt": "a cat", "negative_prompt": "", "seed": 7, "steps": 8, "sampler": "Euler a"}
    assert metadata.from_texts({}) == {}
    assert metadata.from_texts({"prompt": "{}", "workflow": "{}"}) == {}, "ComfyUI's texts are no infotext"
    assert metadata.from_texts({"parameters": '{"prompt": "fooocus"}'}) == {}, "JSON is no prompt"


@pytest.mark.parametrize(
    ("name", "sampler", "scheduler"),
    [
        ("Sampler: DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("Sampler: DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("Sampler: Euler, Schedule type: Simple", "Euler", "Simple"),
        ("Sampler: DPM++ 2M Karras, Schedule type: Karras", "DPM++ 2M Karras", "Karras"),
        ("Sampler: Euler a", "Euler a", None),
    ],
)
def test_schedules_are_read_from_either_place(name: str, sampler: str, scheduler: str | None) -> None:
    found = metadata.read({"parameters": f"x\nSteps: 20, {name}, CFG scale: 7, Seed: 1"})
    assert found is not None and (found.sampler, found.scheduler) == (sampler, scheduler)


@pytest.mark.parametrize(
    "line", ["Steps: many, Seed: -1, CFG scale: NaN", "Steps: 0, Seed: 99999999999999999999, CFG scale: 1e400"]
)
def test_values_that_make_no_sense_are_unknown(line: str) -> None:
    found = metadata.read({"parameters": f"x\n{line}, Size: 1x, Clip skip: 9999"})
    assert found is not None
    assert (found.steps, found.seed, found.cfg, found.size, found.clip_skip) == (None,) * 5


def test_a_text_without_pairs_is_all_prompt() -> None:
    assert parse("a cat: sitting, a dog: lying") == Infotext("a cat: sitting, a dog: lying")
    assert parse("only\nNegative prompt: this") == Infotext("only", "this")


def test_foreign_lines_after_the_pairs_are_skipped_and_kept() -> None:
    text = "a cat\nSteps: 20, Sampler: Euler, Seed: 5\nTemplate: {a|b}\nmade by someone"
    found = parse(text)
    assert found.fields["Seed"] == "5" and found.prompt == "a cat"
    assert found.trailing == "Template: {a|b}\nmade by someone"
    assert format(found) == text


def test_a_prompt_line_full_of_colons_is_no_line_of_pairs() -> None:
    found = parse("aa: b, cc: d, ee: f\nsecond line")
    assert found.fields == {} and found.prompt == "aa: b, cc: d, ee: f\nsecond line"


KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9 /\-]{1,20}[A-Za-z0-9]", fullmatch=True)
LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40).map(str.strip)


@given(
    prompt=st.lists(LINES.filter(lambda line: not line.startswith("Negative prompt:")), max_size=3).map("\n".join),
    negative=st.lists(LINES, max_size=3).map("\n".join),
    fields=st.dictionaries(KEYS, st.text(st.characters(exclude_categories=("Cs",)), max_size=30), max_size=5),
)
def test_what_is_written_is_read_back(prompt: str, negative: str, fields: dict[str, str]) -> None:
    written = Infotext(prompt.strip(), negative.strip(), {"Steps": "20", "Seed": "1", "Size": "8x8", **fields})
    assert parse(format(written)) == written


def test_a_round_trip_keeps_unknown_keys_and_their_order() -> None:
    once = parse(CIVITAI)
    again = parse(format(once))
    assert again == once and list(again.fields) == list(once.fields)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "a: " * 300_000,
        'a: "' * 200_000,
        'aa: "' + "\\" * 900_000,
        "aa" + " " * 900_000 + ":",
        "\n" * 900_000,
        "aa: b, cc: d, ee: f\n" * 40_000,
        "[" * 900_000,
        "Negative prompt:" * 60_000,
        "Steps: " + "9" * 900_000 + ", Seed: 1, Size: 1x1",
    ],
    ids=lambda text: text[:12].replace("\n", "/"),
)
def test_hostile_texts_take_no_time_and_never_fail(text: str) -> None:
    began = time.perf_counter()
    metadata.from_texts({"parameters": text})
    assert time.perf_counter() - began < 5, "parsing must be linear in the text's length"


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    metadata.from_texts({"parameters": text})


SETTINGS = Settings(
    generate=GenerateSettings(prompt="a cat", negative_prompt="dog", steps=12, cfg=5.0),  # pyright: ignore[reportCallIssue]
    hires=HiresSettings(scale=2.0, denoise=0.4, upscaler="models/4x-Ultra.pth", steps=9),  # pyright: ignore[reportCallIssue]
)


def test_an_image_without_metadata_gets_a_full_infotext() -> None:
    texts = metadata.texts_for({}, SETTINGS, 77, size=Size(64, 48))
    found = metadata.read(texts)
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.seed, found.steps, found.cfg) == ("a cat", "dog", 77, 12, 5.0)
    assert found.size == Size(64, 48) and found.model == "builtin"
    assert found.others["Hires upscale"] == "2.0" and found.others["Hires steps"] == "9"
    assert found.others["Denoising strength"] == "0.4" and found.others["Hires upscaler"] == "4x-Ultra"
    assert "Hires prompt" not in found.others, "the same prompt needs no second mention"


def test_the_inputs_own_values_stay_and_ours_are_said_beside_them() -> None:
    texts = metadata.texts_for({"parameters": CIVITAI, "workflow": "{}"}, SETTINGS, 77)
    found = metadata.read(texts)
    assert found is not None
    assert found.seed == 1234567890123 and found.steps == 25 and found.model == "dream/shaper 8"
    assert found.prompt == parse(CIVITAI).prompt
    assert found.others["Hires prompt"] == "a cat" and found.others["Hires negative prompt"] == "dog"
    assert found.others["Hires checkpoint"] == "builtin"
    assert found.others["Created Date"] == "2024-01-01T10:00:00Z", "unknown keys survive"
    assert texts["workflow"] == "{}", "foreign texts survive"
    ours = json.loads(texts["tilehires"])
    assert ours["input_parameters"] == CIVITAI
    assert ours["seed"] == 77 and ours["settings"]["hires"]["denoise"] == 0.4


def test_a_rerun_of_our_own_output_does_not_grow() -> None:
    once = metadata.texts_for({"parameters": CIVITAI}, SETTINGS, 77)
    twice = metadata.texts_for(once, SETTINGS, 77)
    thrice = metadata.texts_for(twice, SETTINGS, 77)
    assert twice["parameters"] == once["parameters"]
    assert len(thrice["tilehires"]) == len(twice["tilehires"])


def test_equal_runs_write_equal_texts() -> None:
    assert metadata.texts_for({}, SETTINGS, 1) == metadata.texts_for({}, SETTINGS, 1)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("bits", ["8", "16"])
def test_settings_come_back_from_every_container(tmp_path: Path, format: FileFormat, bits: str) -> None:
    texts = metadata.texts_for({"parameters": CIVITAI.replace("cat", "größe 猫")}, SETTINGS, 77)
    picture = Picture(np.zeros((8, 8, 3), np.float32), texts=texts)
    write(tmp_path / "a", picture, format=format, bits="16" if bits == "16" else "8")
    for got in (probe(tmp_path / "a").texts, read(tmp_path / "a").texts):
        assert metadata.from_texts(got) == metadata.from_texts(texts)
        assert json.loads(got["tilehires"]) == json.loads(texts["tilehires"])


# A1111's own rule for the last line, stated in the specification.
THEIRS = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@pytest.mark.parametrize("before", [{}, {"parameters": CIVITAI}], ids=["ours", "civitai"])
def test_what_is_written_reads_back_in_a1111s_own_grammar(before: dict[str, str]) -> None:
    odd = {"prompt": 'say: "x, y", again', "negative_prompt": "two\nlines", "cfg": 3.0, "sampler": "Euler a"}
    settings = Settings.model_validate({"generate": odd, "hires": {"prompt": 'a "quoted", thing: 1'}})
    text = metadata.texts_for(before, settings, 77, size=Size(64, 48))["parameters"]
    *prompts, last = text.split("\n")
    pairs = dict(THEIRS.findall(last))
    unquoted = {key: json.loads(value) if value.startswith('"') else value for key, value in pairs.items()}
    assert unquoted == parse(text).fields, "A1111 reads other keys or values than we wrote"
    assert unquoted["Hires prompt"] == 'a "quoted", thing: 1'
    assert sum(line.startswith("Negative prompt: ") for line in prompts) == 1
    if before:
        assert unquoted["Lora hashes"] == "detail: 1a2b, other: 3c4d"
