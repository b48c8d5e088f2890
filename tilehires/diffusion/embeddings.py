"""Textual inversion: rows of a text encoder's input that a word in the prompt stands for (Gal et al. 2022).

SD 1.x and 2.x: one tensor (A1111's .pt and .safetensors, diffusers' files); SDXL: `clip_l` and `clip_g`. Files that would
run code when they are loaded are refused, and nothing of them runs.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilehires.diffusion.chunks import LENGTH, split_names
from tilehires.diffusion.components import Diffusion
from tilehires.errors import MissingError

SUFFIXES = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class Embedding:
    """A file, and the word that stands for it. `required`: the user wrote that word, and not an image's metadata."""

    name: str
    file: Path
    required: bool = True


class MisfitError(MissingError):
    """An embedding that can't be used with the model, or not at all."""

    def __init__(self, embedding: Embedding, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.embedding = embedding


def found_in(text: str, folder: Path) -> tuple[Embedding, ...]:
    """The files of `folder`, or below it, whose names without ending stand in the text as whole words, in any case."""
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")) if text.strip() and folder.is_dir() else ():
        if file.suffix.lower() in SUFFIXES and file.is_file():
            files.setdefault(file.stem.lower(), file)
    names = dict.fromkeys(name for _, name in split_names(text, files) if name)
    return tuple(Embedding(files[name].stem, files[name]) for name in names)


def load(embeddings: Iterable[Embedding], model: Diffusion) -> dict[str, tuple[torch.Tensor, ...]]:
    """Rows by name, n×width for each of the model's text encoders. Raises MisfitError."""
    return {one.name: _fitting(one, model) for one in embeddings}


def _fitting(one: Embedding, model: Diffusion) -> tuple[torch.Tensor, ...]:
    rows = read(one)
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in model.text_encoders]
    if model.scored:
        rows = rows[-1:]  # SDXL's refiner listens to the second of its two encoders
    got = [tuple(each.shape) for each in rows]
    if [shape[-1] for shape in got] != widths:
        raise MisfitError(
            one,
            f"The embedding {one.file.name} is {_sized(shape[-1] for shape in got)} wide, and the checkpoint's text "
            f"{'encoder is' if len(widths) == 1 else 'encoders are'} {_sized(widths)}.",
            hint="Use an embedding that was made for the checkpoint's family, or take its name out of the prompt.",
        )
    if len({shape[0] for shape in got}) != 1 or got[0][0] > LENGTH:
        raise MisfitError(
            one,
            f"The embedding {one.file.name} has {_sized(s[0] for s in got)} rows.",
            hint=f"At most {LENGTH} can be used.",
        )
    return rows


def read(one: Embedding) -> tuple[torch.Tensor, ...]:
    """The file's tensors, n×width: one, or SDXL's two. Raises MisfitError for what is no embedding, or would run code."""
    body = _opened(one)
    if isinstance(body.get("string_to_param"), Mapping):
        body = body["string_to_param"]
    if "clip_l" in body and "clip_g" in body:
        body = {name: body[name] for name in ("clip_l", "clip_g")}
    tensors = [value.detach() for value in body.values() if isinstance(value, torch.Tensor)]
    rows = [value[None] if value.ndim == 1 else value for value in tensors]
    known = len(rows) == 1 or ("clip_l" in body and len(rows) == 2)
    if not known or any(value.ndim != 2 or not value.is_floating_point() for value in rows):
        raise MisfitError(
            one, f"{one.file.name} is no textual inversion embedding.", hint=f"Take it out of {one.file.parent}."
        )
    return tuple(value.float() for value in rows)


def said_by(one: Embedding) -> dict[str, str]:
    """What A1111 noted in a file it trained: its title, the steps, the checkpoint. Raises MisfitError as `read`."""
    body, names = _opened(one), {"title": "name", "steps": "step", "trained on": "sd_checkpoint_name"}
    return {name: str(body[key]) for name, key in names.items() if isinstance(body.get(key), str | int)}


def _opened(one: Embedding) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if one.file.suffix.lower() == ".safetensors":
            return load_file(one.file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's word on files of other pickle protocols, which load all the same
            body = torch.load(one.file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MisfitError(
            one,
            f"{one.file.name} is a pickle that would run code, or is damaged; nothing of it was run.",
            hint="Get the .safetensors version of the embedding.",
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or ["no content"])[0]
        raise MisfitError(one, f"{one.file.name} can't be read: {first[:200]}.", hint="Get the file again.") from error
    return body if isinstance(body, Mapping) else {}


def _sized(values: Iterable[int] | Sequence[int]) -> str:
    return " and ".join(str(value) for value in values)
