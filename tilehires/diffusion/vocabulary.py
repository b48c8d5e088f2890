"""CLIP's tokenizer without a network: its merges are data of open_clip_torch (MIT), read without importing it."""

from __future__ import annotations

import gzip
import importlib.resources
import importlib.util
from functools import cache
from typing import TYPE_CHECKING

from tilehires.errors import MissingError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48894
"""CLIP's vocabulary is 256 bytes, the same at a word's end, one entry per merge, and two marks: 49408."""
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END, length: int = 77) -> CLIPTokenizer:
    """CLIP's own tokenizer; `pad` is the text of the padding token (SDXL's second encoder and SD 2.x pad with "!").

    Raises MissingError when open_clip_torch's data is not there.
    """
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),  # pyright: ignore[reportArgumentType] - pairs are what the tokenizers library takes
        pad_token=pad,
        model_max_length=length,
    )


@cache
def clip_vocabulary() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """(token → id, merges in order) of CLIP's byte-level BPE, built like OpenAI's simple_tokenizer.py (MIT)."""
    lines = gzip.decompress(_merges_bytes()).decode("utf-8").split("\n")
    merges = tuple((left, right) for left, _, right in (line.partition(" ") for line in lines[1 : MERGES + 1]))
    characters = list(byte_characters().values())
    tokens = [*characters, *(c + "</w>" for c in characters), *(left + right for left, right in merges), START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def byte_characters() -> dict[int, str]:
    """A printable character for each byte, in vocabulary order: Latin-1's printable ones, others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _merges_bytes() -> bytes:
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        raise MissingError(
            "CLIP's vocabulary is missing: the package open_clip_torch is not installed.",
            hint="Install it: pip install open_clip_torch",
        )
    # The module object is made but never executed: importing open_clip would load torchvision and seconds of more.
    package = importlib.util.module_from_spec(spec)
    file = importlib.resources.files(package).joinpath(MERGES_FILE)
    if not file.is_file():
        raise MissingError(
            f"CLIP's vocabulary is missing: the installed open_clip_torch holds no {MERGES_FILE}.",
            hint="Reinstall it: pip install --force-reinstall open_clip_torch",
        )
    return file.read_bytes()
