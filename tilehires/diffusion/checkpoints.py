"""Find a checkpoint, tell its family without reading its weights, and load it: offline, from files of three layouts.

"builtin" · a diffusers folder (also one in the hub's local cache, by its id) · a single .safetensors file in LDM's names,
as civitai and the original repositories distribute them. Pickles are never loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tilehires.config.known_models import CHECKPOINTS
from tilehires.diffusion.family import BUILTIN, FAMILIES, Family
from tilehires.diffusion.header import Header, read_header
from tilehires.errors import MissingError
from tilehires.memory import VaeShape

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "model"
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
PLAIN_VAE = VaeShape((128, 256, 512, 512), False)  # Stable Diffusion's, of all its families
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
FLOW = ("StableDiffusion3", "Flux", "QwenImage", "ZImage")
"""How the names of the families begin that `tiled(pipe)` knows and our own loop doesn't sample."""
_PIPELINES = {
    "StableDiffusionPipeline": "sd1",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
}
_INPAINTING = {"StableDiffusionInpaintPipeline": "sd1", "StableDiffusionXLInpaintPipeline": "sdxl"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be loaded, as far as its headers tell."""

    reference: str
    path: Path
    family: Family
    layout: Literal["builtin", "diffusers", "single-file"]
    prediction: str
    files: tuple[Path, ...]
    """The weight files."""
    vae: VaeShape
    """Of the VAE that will be used."""
    unet_parameters: int
    zero_terminal_snr: bool = False
    configs: tuple[Path, ...] = ()
    """A folder's config files, which change a picture as weights do."""
    inpainting: bool = False
    """Its UNet sees mask and masked picture too."""
    latent_channels: int = 4

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell."""
        return 2 ** (len(self.vae.channels) - 1)

    @property
    def unet_file(self) -> Path:
        """The file that holds the UNet, whose hash names the model."""
        return next((file for file in self.files if file.parent.name == "unet"), self.files[0])


def inspect(
    reference: str, *, prediction: str = "auto", vae: str | None = None, inpainting: bool = False
) -> Checkpoint:
    """Find a checkpoint by "builtin", a path, or the id of a hub model that is already on this machine.

    Reads headers only, never the network. `prediction`: what the user says it predicts; "auto": what the file says.
    `vae`: the VAE that will be used in place of its own, which a single file may then lack. `inpainting`: whether a model
    whose UNet sees mask and masked picture (2·C+1 channels) will do as well.
    Raises MissingError, whose hint says what to do, when it isn't there, is no checkpoint, lacks a part, or is of a family
    that can't be run.
    """
    if reference == "builtin":
        return _folder(reference, BUILTIN_FOLDER, prediction, vae, inpainting)
    path = Path(reference).expanduser()
    if path.suffix.lower() in PICKLES:
        raise MissingError(
            f"{path.name} is a pickle, which can run code when it is loaded.",
            hint="Get the .safetensors version of the checkpoint, or convert it to .safetensors yourself.",
        )
    if path.is_dir():
        return _folder(reference, path, prediction, vae, inpainting)
    if path.is_file():
        return _single(reference, path, prediction, vae, inpainting)
    if HUB_ID.fullmatch(reference) and path.suffix != ".safetensors":
        return _folder(reference, _cached(reference), prediction, vae, inpainting)
    raise MissingError(
        f"There is no checkpoint {reference}.",
        hint=f"Check the path, or use the built-in model: --checkpoint builtin. {CHECKPOINTS}",
    )


def _single(reference: str, path: Path, prediction: str, vae: str | None, inpainting: bool) -> Checkpoint:
    if path.suffix.lower() != ".safetensors":
        raise MissingError(f"{path.name} is no .safetensors file.", hint="Checkpoints end in .safetensors.")
    header = read_header(path)
    if header.kind not in FAMILIES:
        raise MissingError(
            f"{path.name} can't be used as a checkpoint: it is {_named(header.kind)}.", hint=_advice(header.kind)
        )
    family = FAMILIES[header.kind]
    made_for_it = _for_inpainting(path, header.input_channels, 4, inpainting)
    if not header.has_vae and vae is None:
        raise MissingError(
            f"{path.name} holds no VAE.",
            hint=f"Name {family.title}'s VAE with --set model.vae=FILE, or use a checkpoint that has one baked in.",
        )
    return Checkpoint(
        reference,
        path,
        family,
        "single-file",
        header.prediction if prediction == "auto" else prediction,
        (path,),
        other_vae(vae) if vae is not None else _vae_in(header),
        header.parameters("model.diffusion_model."),
        header.zero_terminal_snr,
        inpainting=made_for_it,
    )


def _folder(reference: str, path: Path, prediction: str, other: str | None, inpainting: bool) -> Checkpoint:
    index = _json(path / "model_index.json", path)
    family_name = (_PIPELINES | _INPAINTING).get(str(index.get("_class_name")))
    if family_name is None:
        raise MissingError(
            f"{path} holds a {index.get('_class_name')}, which can't be used as a checkpoint here.",
            hint=_advice(str(index.get("_class_name"))),
        )
    unet, vae = (_json(path / part / "config.json", path) for part in ("unet", "vae"))
    if family_name == "sd1" and unet.get("use_linear_projection"):  # what sets SD 2.x's UNet apart, whatever its size
        family_name = "sd2"
    if family_name == "sdxl" and index.get("requires_aesthetics_score"):
        family_name = "sdxl-refiner"
    family = BUILTIN if reference == "builtin" else FAMILIES[family_name]
    made_for_it = _for_inpainting(path, unet.get("in_channels"), vae.get("latent_channels"), inpainting)
    weights = tuple(file for part in PARTS if (index.get(part) or [None])[0] for file in weights_of(path / part))
    scheduler = _json(path / "scheduler" / "scheduler_config.json", path)
    return Checkpoint(
        reference,
        path,
        family,
        "builtin" if reference == "builtin" else "diffusers",
        str(scheduler.get("prediction_type", "epsilon")) if prediction == "auto" else prediction,
        weights,
        _vae_of(vae) if other is None else other_vae(other),
        sum(read_header(file).parameters("") for file in weights_of(path / "unet")),
        configs=(path / "model_index.json", *sorted(path.glob("*/*.json"))),
        inpainting=made_for_it,
        latent_channels=vae.get("latent_channels") or 4,
    )


def _for_inpainting(path: Path, taken: int | None, latent: int | None, inpainting: bool) -> bool:
    """Whether the UNet was made for inpainting. Raises MissingError where it sees more than it will be given."""
    if taken == latent:
        return False
    made_for_it = taken is not None and latent is not None and taken == 2 * latent + 1
    if not (made_for_it and inpainting):
        raise MissingError(
            f"{path.name} is an {'inpainting' if made_for_it else 'editing'} model: its UNet takes {taken} channels.",
            hint="Use the checkpoint it was made from"
            + (", or name this one as the checkpoint of a [[detail]] pass." if made_for_it else "."),
        )
    return True


def weights_of(folder: Path) -> tuple[Path, ...]:
    """The .safetensors files of one component: the plain ones, or else its fp16 variant. Raises MissingError without any."""
    files = sorted(folder.glob("*.safetensors"))
    own = [f for f in files if f.name.split(".")[0].split("-00")[0] in ("model", "diffusion_pytorch_model")]
    chosen = tuple(f for f in own if f.name.count(".") == 1) or tuple(f for f in own if ".fp16" in f.name)
    if not chosen:
        pickles = any(folder.glob("*.bin"))
        raise MissingError(
            f"{folder} holds no .safetensors weights{', only pickles' if pickles else ''}.",
            hint="Get the .safetensors version of the model." if pickles else "The download may be incomplete.",
        )
    return chosen


def vae_path(reference: str) -> Path:
    """The file or folder that model.vae names."""
    return Path(reference).expanduser()


def other_vae(reference: str) -> VaeShape:
    """The shape of the VAE that model.vae names, a folder or a file; a plain one where it can't be read (loading says why)."""
    path = vae_path(reference)
    if path.is_file() and path.suffix.lower() == ".safetensors":
        return _vae_in(read_header(path))
    return _vae_of(_json(path / "config.json", path)) if (path / "config.json").is_file() else PLAIN_VAE


def _vae_of(config: Mapping[str, Any]) -> VaeShape:
    """From a diffusers config."""
    channels = config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0]
    return VaeShape(tuple(channels), config.get("_class_name") == "AutoencoderTiny")


def _vae_in(header: Header) -> VaeShape:
    """Of the AutoencoderKL in a single file, under LDM's names; the plain one where it holds none."""
    channels = []
    for level in range(16):
        name = f"encoder.down.{level}.block.0.conv1.weight"
        shape = header.shapes.get(f"first_stage_model.{name}") or header.shapes.get(name)
        if shape is None:
            break
        channels.append(shape[0])
    return VaeShape(tuple(channels), False) if channels else PLAIN_VAE


def _json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingError(
            f"{folder} is no complete diffusers folder: {path.relative_to(folder)} can't be read.",
            hint="Name the folder that holds model_index.json, or a .safetensors file.",
        ) from error
    if not isinstance(body, dict):
        raise MissingError(f"{path} is no JSON object.", hint="The download may be damaged: get it again.")
    return body


def _cached(hub_id: str) -> Path:
    """The folder of a hub model in the local cache; nothing is downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise MissingError(
            f"The hub model {hub_id} is not on this machine, and tilehires downloads nothing by itself.",
            hint=f"Download it: tilehires models fetch {hub_id}. If you meant a file, check its path.",
        ) from error


def _named(kind: str) -> str:
    return kind if kind.startswith(("a ", "an ", "of ")) else f"a {kind} checkpoint"


def _advice(kind: str) -> str:
    """`kind`: as Header.kind, or the name of a pipeline."""
    known = ", ".join(family.title for family in FAMILIES.values())
    if kind == "a UNet without its text encoder":
        return "Download the full checkpoint, with text encoder and VAE."
    advice = f"Checkpoints of these families can be run: {known}."
    if kind.replace(" ", "").replace("-", "").startswith(FLOW):
        advice += " In Python, `with tiled(pipe, …)` samples this one's own diffusers pipeline in tiles: docs/tiled.md."
    return advice
