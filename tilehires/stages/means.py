"""What a detail pass repairs with: checkpoint, VAE, ControlNets, LoRAs, embeddings; found before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilehires.config.detail import DetailPass
from tilehires.config.known_models import FACES
from tilehires.config.settings import SamplingPass, Settings, hires_pass, prompt_settings
from tilehires.diffusion import controlnets, samplers
from tilehires.diffusion.checkpoints import Checkpoint, inspect
from tilehires.diffusion.controlnets import ControlNetFile
from tilehires.errors import MissingError
from tilehires.stages.extras import Extras, extras_of
from tilehires.stages.redenoise import vae_files
from tilehires.stages.words import given_out


@dataclass(frozen=True)
class Means:
    """What one pass works with. `extras`: LoRAs and embeddings by the region's prompt; none where nothing is repainted.
    `restorer`: a face restoration model's file.
    """

    checkpoint: Checkpoint
    vae: str | None
    nets: tuple[ControlNetFile, ...]
    extras: Mapping[str, Extras]
    restorer: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that change a picture."""
        files = [*self.checkpoint.files, *self.checkpoint.configs]
        files += vae_files(self.vae) if self.vae is not None else ()
        files += [file for net in self.nets for file in net.shaping]
        files += [file for extras in self.extras.values() for file in extras.files]
        files += [self.restorer] if self.restorer else []
        return tuple(dict.fromkeys(files))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for extras in self.extras.values() for note in extras.notes))


def means_of(
    one: DetailPass, settings: Settings, seed: int, base: Checkpoint, from_image: Callable[[str], bool]
) -> Means:
    """Find what the pass names. Reads headers.

    Raises MissingError for what isn't there or doesn't fit the pass's checkpoint, ConfigError for a sampler that can't
    work with it.
    """
    values = hires_pass(settings, seed)
    vae = one.vae or (None if one.checkpoint else settings.model.vae)
    own = base if one.checkpoint in (None, base.reference) else inspect(one.checkpoint, vae=vae, inpainting=True)
    samplers.check(one.sampler or values.sampler, one.scheduler or values.scheduler, own.family.name)
    if vae is not None:
        vae_files(vae)
    nets = tuple(controlnets.inspect(use.path, own) for use in one.controlnets)
    extras = _extras(one, settings, values, own, from_image) if one.denoise > 0 else {}
    return Means(own, vae, nets, extras, _restorer(one.restore_face))


def _restorer(named: str | None) -> Path | None:
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_file():
        raise MissingError(f"The face restoration model {path} is not there.", hint=f"Check restore_face. {FACES}")
    return path


def _extras(
    one: DetailPass,
    settings: Settings,
    values: SamplingPass,
    checkpoint: Checkpoint,
    from_image: Callable[[str], bool],
) -> dict[str, Extras]:
    main = prompt_settings(settings, "hires")
    avoided = " ".join(part for part in given_out(one.negative_prompt, values.negative_prompt) if part)
    found: dict[str, Extras] = {}
    for said, prompt in zip(given_out(one.prompt, "[PROMPT]"), given_out(one.prompt, values.prompt), strict=True):
        if prompt is None or prompt in found:
            continue
        # What the pass says itself is the user's; the main prompt may have come from the image.
        texts = [(prompt, not ("[PROMPT]" in (said or "") and any(from_image(name) for name in main)))]
        own = values.model_copy(update={"prompt": prompt, "negative_prompt": avoided})
        found[prompt] = extras_of(settings, texts, own, checkpoint.family.name, from_image)
    return found
