"""What a pass's prompt and settings name beside the checkpoint: LoRAs and embeddings, found before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tilehires.config.settings import SamplingPass, Settings, prompt_settings
from tilehires.diffusion import embeddings, lora, syntax
from tilehires.diffusion.bay import Bay
from tilehires.diffusion.checkpoints import Checkpoint
from tilehires.diffusion.components import Diffusion
from tilehires.diffusion.embeddings import Embedding, found_in
from tilehires.diffusion.lora import Lora
from tilehires.errors import ConfigError, RunError

_KINDS = ("lora", "lyco")


@dataclass(frozen=True)
class Extras:
    """The LoRAs and embeddings of one pass, and notes on what was left out."""

    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(one.file for one in (*self.loras, *self.embeddings))


def find_extras(
    settings: Settings, step: str, values: SamplingPass, family: str, from_image: Callable[[str], bool]
) -> Extras:
    """The extras of the pass `step` ("hires", "tiled.1", …).

    `from_image` says whether a setting ("generate.prompt") was filled in by the image's metadata. What such a setting
    names and isn't there, or is of another family, is a note. Raises MissingError or ConfigError for the rest.
    """
    return extras_of(settings, tuple(_prompts(settings, step, from_image)), values, family, from_image)


def extras_of(
    settings: Settings,
    texts: Sequence[tuple[str, bool]],
    values: SamplingPass,
    family: str,
    from_image: Callable[[str], bool],
) -> Extras:
    """As `find_extras`, with tags from `texts`: the prompt's parts, and of each whether the user wrote it."""
    notes: list[str] = []
    found: list[Lora] = []
    folder = Path(settings.model.lora_folder).expanduser()
    for reference in values.loras:
        name, text, unet = lora.from_setting(reference)
        found.append(_checked(Lora(name, lora.find(name, folder, as_path=True), text, unet), family))
    for text, required in texts:
        if alone := syntax.unpaired(syntax.without_tags(text)[0]):
            notes.append(f"{alone} of the prompt's brackets have no partner; those that open close at its end.")
        for tag in syntax.without_tags(text)[1]:
            try:
                found += _of_tag(tag, folder, family, required, notes)
            except RunError as error:
                if required:
                    raise
                notes.append(f"{error.message} Its metadata names it; it was left out.")
    words = _embeddings(settings, texts, values, from_image)
    return Extras(lora.merged(found), words, tuple(dict.fromkeys(notes)))


def _of_tag(tag: syntax.Tag, folder: Path, family: str, required: bool, notes: list[str]) -> Iterator[Lora]:
    if tag.kind == "hypernet":
        raise ConfigError(
            f"Hypernetworks can't be used: <hypernet:{tag.name[:80]}>.", hint="Take it out of the prompt."
        )
    if tag.kind not in _KINDS:
        notes.append(f"<{tag.kind}:{tag.name[:40]}> in the prompt means nothing here and was left out.")
        return
    name, text, unet = lora.from_tag(tag)
    if text or unet:
        yield _checked(Lora(name, lora.find(name, folder), text, unet, required), family)


def _checked(one: Lora, family: str) -> Lora:
    lora.check(one.file, family)
    return one


def _prompts(settings: Settings, step: str, from_image: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """(text, whether the user wrote it) of each setting that makes up the pass's prompt."""
    for name in prompt_settings(settings, step):
        section, _, key = name.partition(".")
        yield getattr(getattr(settings, section), key) or "", not from_image(name)


def _embeddings(
    settings: Settings,
    texts: Sequence[tuple[str, bool]],
    values: SamplingPass,
    from_image: Callable[[str], bool],
) -> tuple[Embedding, ...]:
    folder = Path(settings.model.embedding_folder).expanduser()
    text = f"{syntax.without_tags(values.prompt)[0]}\n{syntax.without_tags(values.negative_prompt)[0]}"
    # A word is a word: whoever wrote the prompt, only what the user wrote can be an error.
    own = all(required for _, required in texts)
    required = own and not from_image("generate.negative_prompt")
    return tuple(replace(one, required=required) for one in found_in(text, folder))


@dataclass(frozen=True)
class Fitted:
    """A model with the extras that fit it; `left_out` says why others don't."""

    model: Diffusion
    loras: tuple[Lora, ...]
    embeddings: Mapping[str, tuple[torch.Tensor, ...]]
    left_out: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a record holds of it; nothing where there are no extras."""
        facts: dict[str, Any] = {}
        if self.loras:
            facts["loras"] = [{"name": one.name, "text": one.text, "unet": one.unet} for one in self.loras]
        if self.embeddings:
            facts["embeddings"] = sorted(self.embeddings)
        if self.left_out:
            facts["left_out"] = list(self.left_out)
        return facts


def fitted(bay: Bay, checkpoint: Checkpoint, vae: str | None, extras: Extras) -> Fitted:
    """The model with the pass's extras. What only an image's metadata names and doesn't fit is left out.

    Raises MissingError for the rest.
    """
    loras, left_out = list(extras.loras), []
    while True:
        try:
            model = bay.diffusion(checkpoint, vae, loras)
        except lora.MisfitError as error:
            if error.lora.required:
                raise
            loras.remove(error.lora)
            left_out.append(error.message)
        else:
            break
    rows: dict[str, tuple[torch.Tensor, ...]] = {}
    for one in extras.embeddings:
        try:
            rows |= embeddings.load((one,), model)
        except embeddings.MisfitError as error:
            if one.required:
                raise
            left_out.append(error.message)
    return Fitted(model, tuple(loras), rows, tuple(left_out))
