"""Everything that strangers' bytes reach, for the fuzzing: seeds of each kind, and what reads them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.fuzzing import Places, Target
from tests.pictures import INFOTEXT, SRGB, camera_exif, draw_png, picture
from tilehires import metadata
from tilehires.batch.hashes import HashMemory
from tilehires.batch.marks import Marks, read_marks
from tilehires.batch.store import Store
from tilehires.batch.workspace import Workspace
from tilehires.config import Config
from tilehires.diffusion import checkpoints, embeddings, lora, syntax
from tilehires.errors import ImageError, TilehiresError
from tilehires.images import Picture, write
from tilehires.progress import Silent
from tilehires.report import load

MOST_PIXELS = 1_000_000
_DEATHS = ("crashed its decoder", "took longer", "takes more memory")


# Images


def _encoded(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((picture().pixels * 255).astype(np.uint8)).save(stream, format, **options)
    return stream.getvalue()


def _written(folder: Path, format: str, bits: int, *, alpha: bool) -> bytes:
    source = picture(bits=bits, alpha=alpha)
    full = Picture(source.pixels, source.alpha, bits, icc=SRGB, exif=camera_exif(">"), texts={"parameters": INFOTEXT})
    path = folder / "seed"
    write(path, full, format=format, bits=str(bits))  # type: ignore[arg-type]
    body = path.read_bytes()
    path.unlink()
    return body


def _of_ours(*kinds: tuple[str, int, bool]) -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return tuple(_written(Path(folder), format, bits, alpha=alpha) for format, bits, alpha in kinds)


def _pngs() -> tuple[bytes, ...]:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", INFOTEXT, zip=True)
    texts.add_itxt("prompt", json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 5}}}), zip=True)
    plain = Image.fromarray((picture().pixels * 255).astype(np.uint8))
    made = []
    for mode in ("P", "1", "L", "RGBA"):
        stream = io.BytesIO()
        plain.convert(mode).save(stream, "PNG", pnginfo=texts, icc_profile=SRGB)
        made.append(stream.getvalue())
    return (*made, draw_png(16), draw_png(8), *_of_ours(("png", 16, True)))


def _with_sums(body: bytes) -> bytes:
    """A PNG's checksums made right."""
    out, at = bytearray(body[:8]), 8
    while at + 12 <= len(body):
        length = struct.unpack(">I", body[at : at + 4])[0]
        chunk = body[at + 4 : at + 8 + length]
        out += body[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(out)


def _frames() -> bytes:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "green")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], transparency=0, comment=b"a")
    return stream.getvalue()


def _decode(body: bytes, places: Places) -> str:
    path = places.folder / "a.png"
    path.write_bytes(body)
    try:
        header = places.decoder.probe(path, max_pixels=MOST_PIXELS)
        metadata.read(header.texts)
        found = places.decoder.read(path, max_pixels=MOST_PIXELS)
        places.decoder.preview(path, 16, max_pixels=MOST_PIXELS)
    except ImageError as error:
        return "died" if any(word in error.message for word in _DEATHS) else "refused"
    assert found.size == header.size and found.size.pixels <= MOST_PIXELS
    assert found.pixels.dtype == np.float32 and found.pixels.min() >= 0 and found.pixels.max() <= 1
    return "read"


# Texts


def _metadata_seeds() -> tuple[bytes, ...]:
    graph = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9, "cfg": 2.5, "positive": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    }
    infotext = (
        "a (fox:1.2), <lora:film:0.8>\nNegative prompt: blur\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 8, "
        'Size: 512x768, Model hash: 0123abcd, Model: a, Hires prompt: "x, \\"y\\"", Lora hashes: "film: 12ab", ENSD: 31337'
    )
    swarm = {"sui_image_params": {"prompt": "a", "seed": 4, "steps": 7, "cfgscale": 3.0, "loras": ["b"]}}
    nai = {"prompt": "a", "uc": "b", "steps": 28, "sampler": "k_euler", "seed": 3, "scale": 5.0}
    return tuple(
        json.dumps(texts).encode()
        for texts in (
            {"parameters": infotext},
            {"prompt": json.dumps(graph)},
            {"parameters": json.dumps(swarm)},
            {"Software": "NovelAI", "Comment": json.dumps(nai), "Description": "a"},
            {"invokeai_metadata": json.dumps({"positive_prompt": "a", "steps": 9, "model": {"name": "m"}})},
        )
    )


def _read_metadata(body: bytes, places: Places) -> str:
    try:
        texts = json.loads(body)
    except (ValueError, RecursionError):
        texts = {"parameters": body.decode("utf-8", "replace")}
    texts = {key: text for key, text in texts.items() if isinstance(text, str)} if isinstance(texts, dict) else {}
    said = metadata.read(texts)
    if said is None:
        return "refused"
    config = CONFIG.for_image(said.settings(), image_family=said.family, source=said.source, notes=said.notes)
    metadata.texts_for(texts, config.settings, 1)
    return "read"


PROMPTS = (
    b"a (red:1.3) fox, [cat:dog:0.4] [a|b|c] BREAK ((sharp)) <lora:film:0.8:0.5> AND grass :0.5",
    b"\\(literal\\) [to:12] [from::0.25] (a:(b:1.1)) <hypernet:x:1> [[[deep]]] (open",
)


def _prompt(body: bytes, places: Places) -> str:
    text, tags = syntax.without_tags(body.decode("utf-8", "replace"))
    for tag in tags:
        try:
            lora.from_tag(tag)
        except TilehiresError:
            continue
    for part in syntax.parts(text):
        for step in syntax.at_each_step(part.text, syntax.Count(5)):
            for section in syntax.emphasis(step):
                assert all(np.isfinite(fragment.weight) for fragment in section)
    syntax.unpaired(text)
    return "read"


TOML = (
    b'extends = "sdxl"\n[hires]\nscale = 2.5\ndenoise = 0.3\nupscaler = "Lanczos"\n[tiled]\noverlap = 64\n',
    b'[generate]\nprompt = """a\nfox"""\nseed = 7\nsampler = "Euler a"\n[check]\nonly = ["black"]\n[run]\nbits = 16\n',
    b'[[mark]]\nid = "a/b.png"\nverdict = "redo"\nsha256 = "00"\n[[mark]]\nquoted = "a%ff.png"\nverdict = "keep"\n',
    b'[[detail.pass]]\ndetector = "face"\nprompt = "x"\n[[hires.controlnet]]\npath = "a"\nscale = 0.5\n',
)


def _toml(body: bytes, places: Places) -> str:
    path = places.folder / "photo.toml"
    path.write_bytes(body)
    prompt = places.folder / "photo.txt"
    prompt.write_bytes(body)
    ends = [
        _ended(lambda: Config.load(path)),
        _ended(lambda: CONFIG.for_image(sidecars=(path,))),
        _ended(lambda: CONFIG.for_image(sidecars=(prompt,))),
        _ended(lambda: read_marks(path)),
    ]
    return "read" if "read" in ends else "refused"


def _ended(action: Callable[[], object]) -> str:
    try:
        action()
    except TilehiresError as error:
        assert error.message and error.hint, f"{error!r} says nothing of what to do"
        return "refused"
    return "read"


# Models and what a run keeps


def _tensors(names: dict[str, tuple[int, ...]], **said: str) -> bytes:
    header: dict[str, object] = {"__metadata__": said} if said else {}
    end = 0
    for name, shape in names.items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def _safetensors_seeds() -> tuple[bytes, ...]:
    unit = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return (
        _tensors({f"{unit}.lora_down.weight": (2, 768), f"{unit}.lora_up.weight": (32, 2), f"{unit}.alpha": ()}),
        _tensors({"emb_params": (2, 768)}, modelspec="1"),
        _tensors({"clip_l": (1, 768), "clip_g": (1, 1280)}),
        _tensors(
            {
                "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
                "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768),
                "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
                "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (4, 768),
            },
            ss_base_model_version="sd_v1",
        ),
    )


def _with_length(body: bytes) -> bytes:
    """A safetensors file's header length made right, if its header still ends as one."""
    end = body.rfind(b"]}}")
    return body if end < 8 else struct.pack("<Q", end + 3 - 8) + body[8:]


def _safetensors(body: bytes, places: Places) -> str:
    path = places.folder / "model.safetensors"
    path.write_bytes(body)
    ends = [
        _ended(lambda: checkpoints.inspect(str(path))),
        _ended(lambda: lora.check(path, "sd1")),
        _ended(lambda: lora.read(path)),
        _ended(lambda: embeddings.read(embeddings.Embedding("model", path))),
    ]
    return "read" if "read" in ends else "refused"


def _kept_seeds() -> tuple[bytes, ...]:
    stage = {"name": "hires", "fingerprint": "ab", "seconds": 1.0, "cached": False, "facts": {}, "environment": {}}
    record = {
        "id": "a.png",
        "input": {"path": "a.png", "size": [8, 8], "sha256": "00"},
        "output": {"path": "a.png", "size": [16, 16], "sha256": "00"},
        "status": "done",
        "seed": 5,
        "settings": {"hires.scale": {"value": 2.0, "origin": "flag"}},
        "stages": [stage],
        "findings": [
            {"check": "black", "severity": "warn", "value": 1, "limit": 1, "box": [0, 0, 1, 1], "message": ""}
        ],
        "notes": [],
    }
    entry = {"stage": "hires", "crc32": 5, "facts": {}, "findings": record["findings"], "environment": {}}
    report = {"version": 1, "run": {"input_folder": "in"}, "summary": {}, "images": [record]}
    marks = {"a.png": {"verdict": "redo", "sha256": "00", "due": True, "values": {"generate": {"seed": 5}}}}
    hashes = '\n["/a", [1, 2, 3], "00"]\n'
    return tuple(json.dumps(one).encode() for one in (record, entry, report, marks)) + (hashes.encode(),)


def _kept(body: bytes, places: Places) -> str:
    """A cache, record or ledger that something damaged: made again, or an error, never a crash of the run."""
    workspace = Workspace(places.folder / "out")
    key = "ab" * 32
    entry = workspace.cache / key[:2] / f"{key}.json"
    record = workspace._record_path("a.png")
    report = workspace.report / "report.json"
    ledger = workspace.root / "outputs.jsonl"
    for path in (
        entry,
        record,
        report,
        ledger,
        workspace.marks,
        workspace.root / "hashes.jsonl",
        entry.with_suffix(".npy"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    HashMemory(workspace.root / "hashes.jsonl").sha256(report)
    store = Store(workspace.cache, 10**9)
    found = store.peek(key)
    if found:
        store.pixels(key, found, Silent())
    ends = [_ended(lambda: Marks(workspace.marks)), _ended(lambda: load(workspace.output))]
    return "read" if workspace.record("a.png") or found or "read" in ends else "refused"


CONFIG = Config.load()
_JSON = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 400,
    b'"\\ud800"',
    b"\0",
)
_WORDS = (b"Steps: ", b"Negative prompt:", b"<lora:", b"BREAK", b" AND ", b"(", b"[", b":", b"|", b"\\", b"[" * 500)
_TABLE = (
    b"[hires]\n",
    b"[[",
    b"]",
    b"= ",
    b'"""',
    b"nan",
    b"inf",
    b"1e400",
    b"9" * 30,
    b"[" * 300,
    b"\xff",
    b"a.b.c = 1\n",
)
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")

TARGETS = (
    Target("png", _pngs, _decode, _CHUNKS, _with_sums, weight=4),
    Target(
        "jpeg",
        lambda: (
            (_encoded("JPEG", exif=b"Exif\0\0" + camera_exif(), icc_profile=SRGB), _encoded("JPEG", progressive=True))
            + _of_ours(("jpeg", 8, False))
        ),
        _decode,
        (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdd", b"\xff\xe1", b"\xff\xe2", b"\xff\xdb"),
        weight=2,
    ),
    Target(
        "webp", lambda: _of_ours(("webp", 8, True), ("webp", 8, False)), _decode, (b"VP8X", b"ANMF", b"ALPH"), weight=2
    ),
    Target(
        "avif", lambda: _of_ours(("avif", 8, True)), _decode, (b"ispe", b"iloc", b"iprp", b"ipma", b"mdat"), weight=2
    ),
    Target(
        "tiff",
        lambda: (
            _of_ours(("tiff", 16, True), ("tiff", 8, False))
            + tuple(_encoded("TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg", "packbits", "raw"))
        ),
        _decode,
        (b"\x53\x01", b"\x01\x53", b"\x11\x01", b"\x17\x01", b"\x1c\x01", b"II*\0", b"MM\0*"),
        weight=3,
    ),
    Target("gif, bmp", lambda: (_frames(), _encoded("BMP"), _encoded("GIF")), _decode, (b"\x2c", b"\x21\xf9", b"\x3b")),
    Target("metadata", _metadata_seeds, _read_metadata, (*_JSON, *_WORDS), weight=2),
    Target("prompts", lambda: PROMPTS, _prompt, _WORDS),
    Target("toml, sidecars, marks", lambda: TOML, _toml, _TABLE),
    Target("safetensors", _safetensors_seeds, _safetensors, _JSON, _with_length),
    Target("kept files", _kept_seeds, _kept, _JSON),
)
