"""Metadata made to break a reader: never an error, no more memory than stated, and a note where something was left out."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import draw_png
from tilehires import metadata
from tilehires.config import Config
from tilehires.images import probe, read
from tilehires.metadata.comfy_graph import WIDGETS
from tilehires.metadata.values import LARGEST_JSON

DEFAULT = Config.load()
KEYS = ("parameters", "prompt", "workflow", "invokeai_metadata", "invokeai", "sd-metadata", "Dream", "Comment")
KEYS += ("Software", "Source", "Description", "comment", "fooocus_scheme")
NAMES = (
    *("sui_image_params", "prompt", "negativeprompt", "seed", "steps", "cfgscale", "width", "height", "sampler"),
    *("scheduler", "loras", "loraweights", "clipstopatlayer", "full_prompt", "resolution", "guidance_scale", "uc"),
    *("base_model", "lora_combined_1", "clip_skip", "v4_prompt", "caption", "char_captions", "base_caption", "scale"),
    *("positive_prompt", "cfg_scale", "model", "base", "name", "weight", "image", "node", "Comment", "noise_schedule"),
    *("class_type", "inputs", "nodes", "links", "id", "type", "mode", "widgets_values", "link", "on", "lora", "1", "2"),
)
WORDS = (
    st.text(max_size=12) | st.sampled_from(NAMES) | st.sampled_from(["\ud800", "\0", "9" * 30, "-1", "1e999", "(1, 2)"])
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | WORDS, inner, max_size=6),
    max_leaves=25,
)
TABLES = st.dictionaries(st.sampled_from(NAMES) | WORDS, TREES, max_size=8)


def check(texts: dict[str, str]) -> None:
    """What was read can be used, told, and written again."""
    said = metadata.read(texts) or metadata.Metadata()
    config = DEFAULT.for_image(said.settings(), image_family=said.family, source=said.source, notes=said.notes)
    assert 0 <= (said.seed or 0) < 2**64 and math.isfinite(said.cfg or 0) and 1 <= (said.steps or 1) <= 10_000
    for text in (*said.others, *said.others.values(), *said.notes, str(said.settings()), str(config.settings)):
        text.encode("utf-8")
    texts_out = metadata.texts_for(texts, config.settings, 1)
    assert metadata.read(texts_out) is not None


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(KEYS), st.one_of(TABLES.map(json.dumps), TREES.map(json.dumps), st.text()), max_size=4
    )
)
def test_anything_under_the_tools_own_keys_can_be_read(texts: dict[str, str]) -> None:
    check(texts)


LINK = st.tuples(st.integers(0, 9).map(str), st.integers(-1, 2)).map(list)
INPUTS = sorted(
    {name for names in WIDGETS.values() for name in names if name} | {"model", "clip", "positive", "negative"}
)
INPUTS += ["latent_image", "guider", "sigmas", "sampler", "noise", "conditioning", "samples", "images", "lora_1", ""]
KINDS = [*WIDGETS, "SamplerCustomAdvanced", "SaveImage", "VAEDecode", "Reroute", "ControlNetApplyAdvanced", "Bypassed"]
GRAPHS = st.dictionaries(
    st.integers(0, 9).map(str),
    st.fixed_dictionaries(
        {
            "class_type": st.sampled_from(KINDS),
            "inputs": st.dictionaries(st.sampled_from(INPUTS), LINK | LINK | SCALARS | TREES, max_size=8),
        }
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=200)
@given(GRAPHS)
def test_any_graph_ends_cycles_too(graph: dict[str, Any]) -> None:
    check({"prompt": json.dumps(graph)})


NODES = st.fixed_dictionaries(
    {"id": st.integers(0, 9) | SCALARS, "type": st.sampled_from(KINDS) | SCALARS},
    optional={
        "mode": st.sampled_from([0, 2, 4, None]),
        "widgets_values": TREES,
        "inputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(INPUTS), "type": SCALARS, "link": st.integers(0, 12)})
            | TREES,
            max_size=6,
        ),
        "outputs": TREES,
    },
)
LINKS = st.lists(st.tuples(*[st.integers(0, 12)] * 5).map(list) | TREES, max_size=12)


@settings(max_examples=120)
@given(st.lists(NODES | TREES, max_size=8), LINKS)
def test_any_workflow_ends_cycles_too(nodes: list[Any], links: list[Any]) -> None:
    check({"workflow": json.dumps({"nodes": nodes, "links": links})})


def sampler(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["2", 0], **inputs}}


def many(count: int, kind: str, **inputs: Any) -> dict[str, Any]:
    return {f"n{i}": {"class_type": kind, "inputs": {key: [f"n{i + 1}", 0] for key in inputs}} for i in range(count)}


@pytest.mark.parametrize(
    "graph",
    [
        {
            "1": sampler(latent_image=["1", 0], model=["1", 0]),
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0]}},
        },
        {"1": sampler(), "2": {"class_type": "Reroute", "inputs": {"a": ["2", 0]}}},
        {
            "1": sampler(latent_image=["n0", 0], model=["n0", 0]),
            **many(15_000, "VAEDecode", samples=0, model=0, clip=0),
        },
        {"1": sampler(), **many(15_000, "SaveImage", images=0)},
        {"1": sampler(), "2": {"class_type": "ConditioningCombine", "inputs": {"conditioning": ["n0", 0]}}}
        | many(15_000, "ConditioningConcat", conditioning_to=0, conditioning_from=0),
        {f"{i}": {"class_type": "SaveImage", "inputs": {f"{k}": [f"{k}", 0] for k in range(150)}} for i in range(150)},
    ],
    ids=["self", "reroute", "chain", "saves", "conditions", "dense"],
)
def test_graphs_with_cycles_and_of_any_length_take_no_time(graph: dict[str, Any]) -> None:
    began = time.perf_counter()
    metadata.read({"prompt": json.dumps(graph)})
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("key", ["prompt", "workflow", "invokeai_metadata", "sd-metadata"])
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ('{"a": ' + "[" * 500_000, "nested too deep"),
        ('{"a": ' + "9" * 10_000 + "}", "damaged"),
        ('{"a": 1', "damaged"),
        ('{"a": "' + "x" * LARGEST_JSON + '"}', "characters"),
    ],
    ids=["deep", "open", "digits", "cut", "long"],
)
def test_what_cant_be_read_is_a_note(key: str, text: str, word: str) -> None:
    said = metadata.read({key: text})
    assert said is not None and said.settings() == {}
    assert len(said.notes) == 1 and word in said.notes[0] and "metadata" in said.notes[0]


def test_a_good_text_is_read_beside_a_bad_one() -> None:
    graph = {"1": sampler(steps=5), "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "x"}}}
    said = metadata.read({"sd-metadata": "{" * 9999, "prompt": json.dumps(graph)})
    assert said is not None and (said.steps, said.prompt, said.source) == (5, "x", "ComfyUI")
    assert len(said.notes) == 1, "what was left out is told all the same"


@pytest.mark.parametrize(
    "text", ["[" + "[]," * ((LARGEST_JSON - 8) // 3) + "[]]", '"' + "x" * (LARGEST_JSON - 8) + '😀"']
)
def test_memory_is_bounded(text: str) -> None:
    """The worst that JSON can be in memory, at the largest size that is parsed."""
    texts = {"prompt": '{"a":' + text[: LARGEST_JSON - 7] + "}"}
    assert len(texts["prompt"]) <= LARGEST_JSON
    tracemalloc.start()
    metadata.read(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20, f"{peak >> 20} MiB"


# Files


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


FIFTEEN = zlib.compress(bytes(15 << 20), 9)
BOMB = zlib.compress(bytes(200 << 20), 9)
INFO = b"a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 8, Size: 8x8"
HOSTILE = {
    "packed": lambda: chunk(b"zTXt", b"parameters\0\0" + BOMB),
    "packed international": lambda: chunk(b"iTXt", b"prompt\0\1\0\0\0" + BOMB),
    "long": lambda: chunk(b"tEXt", b"parameters\0" + b"a" * (100 << 20)),
    "many": lambda: chunk(b"tEXt", b"x\0y") * 20_000,
    "many bombs": lambda: b"".join(chunk(b"zTXt", b"t%d\0\0" % i + FIFTEEN) for i in range(200)),
    "damaged": lambda: chunk(b"zTXt", b"parameters\0\0nonsense") + chunk(b"iTXt", b"a") + chunk(b"tEXt", b"\0"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_with_hostile_texts_before_its_pixels_is_read(tmp_path: Path, name: str, depth: int) -> None:
    plain = draw_png(depth)
    path = tmp_path / "a.png"
    path.write_bytes(plain[:33] + HOSTILE[name]() + chunk(b"tEXt", b"note\0hello") + plain[33:])
    tracemalloc.start()
    header, picture = probe(path), read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.texts["note"] == "hello"
    (tmp_path / "plain.png").write_bytes(plain)
    assert (picture.pixels == read(tmp_path / "plain.png").pixels).all()
    assert any("left out" in note for note in picture.notes) == (name != "many")
    assert len(picture.notes) <= 6
    assert peak < 200 << 20, f"{peak >> 20} MiB"


@pytest.mark.parametrize("text", [b"\n" * 4_000_000, b"," * 4_000_000, b", Steps:" * 500_000, b"{" * 4_000_000])
def test_hostile_exif_takes_no_time(tmp_path: Path, text: bytes) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + text
    xmp = b"<exif:UserComment>" * 100_000
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif, xmp=xmp)
    began = time.perf_counter()
    metadata.read(probe(tmp_path / "a.webp").texts)
    assert time.perf_counter() - began < 5
