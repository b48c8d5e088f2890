"""LoRA files: found by name, read without running anything, their tensors sorted by the module they change.

Three namings: diffusers' (`unet.down_blocks…lora_A.weight`, older forms too), kohya's (`lora_unet_down_blocks_…`), and
kohya's over the original checkpoint's names (`lora_unet_input_blocks_…`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tilehires.diffusion.header import Header, read_header
from tilehires.diffusion.syntax import Tag
from tilehires.errors import ConfigError, MissingError

if TYPE_CHECKING:
    import torch

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
_PREFIXES = (
    *(("lora_unet_", UNET), ("unet.", UNET), ("model.diffusion_model.", UNET), ("diffusion_model.", UNET)),
    *(("lora_te2_", TEXT_2), ("lora_te1_", TEXT), ("lora_te_", TEXT)),
    *(("text_encoder_2.", TEXT_2), ("text_encoder.", TEXT)),
)
_SUFFIX = re.compile(
    r"(?P<stem>.+?)[._](?:lora_(?P<a>up|down)|lora_(?P<b>A|B)(?:\.default(?:_\d+)?)?|lora\.(?P<c>up|down)"
    r"|lora_linear_layer\.(?P<d>up|down))\.weight"
)
_DOWN = ("down", "A")
_UNUSABLE = re.compile(r"(hada_w|lokr_w|lora_mid|dora_scale|lora_magnitude_vector|oft_|boft_|\bglora|diff_b?$)")
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_OTHERS = re.compile(r"(^|[._])(double_blocks|single_blocks|joint_blocks|single_transformer_blocks|noise_refiner)[._]")
WEIGHT = re.compile(r"[+-]?(\d{1,6}(\.\d{0,10})?|\.\d{1,10})")
STRONGEST = 100.0


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how strongly it acts on the text encoders and on the UNet. `required`: the user asked for it."""

    name: str
    file: Path
    text: float
    unet: float
    required: bool = True


class MisfitError(MissingError):
    """A LoRA that can't be put on the model."""

    def __init__(self, lora: Lora, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.lora = lora


@dataclass(frozen=True)
class Delta:
    """One module's change, `up @ down · alpha ÷ rank`: `down` rank×in, `up` out×rank, with a kernel for convolutions."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def from_tag(tag: Tag) -> tuple[str, float, float]:
    """(name, weight of the text encoders, of the UNet) of `<lora:name:te[:unet]>`, or with te=, unet=.

    Raises ConfigError for a weight that is no number.
    """
    given: dict[str, float] = {}
    for i, argument in enumerate(tag.arguments):
        key, equals, value = argument.rpartition("=")
        key = key.strip() if equals else ("te", "unet", "dyn")[min(i, 2)]
        if key not in ("te", "unet"):
            continue  # such as dyn, the dynamic rank, which nobody's file needs
        given[key] = _number(value, f"<{tag.kind}:{tag.name}:{':'.join(tag.arguments)}>")
    text = given.get("te", 1.0)
    return tag.name, text, given.get("unet", text)


def from_setting(reference: str) -> tuple[str, float, float]:
    """(name or path, weight of the text encoders, of the UNet) of "path", "path:0.8" or "path:0.8:0.5"."""
    name, weights = reference.strip(), []
    while len(weights) < 2:
        head, colon, tail = name.rpartition(":")
        if not (colon and head and WEIGHT.fullmatch(tail.strip())):
            break
        name, weights = head, [_number(tail, reference), *weights]
    text = weights[0] if weights else 1.0
    return name, text, weights[-1] if weights else 1.0


def _number(text: str, whole: str) -> float:
    if not WEIGHT.fullmatch(text.strip()) or abs(float(text)) > STRONGEST:
        raise ConfigError(
            f"{whole}: {text!r} is no weight.", hint="Write <lora:name:0.8>; weights go from -100 to 100."
        )
    return float(text)


def find(name: str, folder: Path, *, as_path: bool = False) -> Path:
    """The file of that name in `folder` or below, without its ending, in any case. `as_path`: it may be a path as well.

    Raises MissingError, whose hint says where files go.
    """
    if as_path and (path := Path(name).expanduser()).is_file():
        return path
    wanted = name.removesuffix(".safetensors")
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file()) if folder.is_dir() else []
    for spell in (str, str.lower):
        for file in files:
            if spell(file.stem) == spell(wanted):
                return file
    raise MissingError(
        f"There is no LoRA {name[:80]!r} in {folder}.",
        hint="Put its .safetensors file there, or name another folder with --set model.lora_folder=FOLDER.",
    )


def check(file: Path, family: str) -> None:
    """Raise MissingError when the header alone tells that the file is no usable LoRA, or one of another family."""
    header = read_header(file)
    unusable = next((name for name in header.shapes if _UNUSABLE.search(name)), None)
    if unusable:
        raise MissingError(
            f"{file.name} is a LyCORIS or DoRA file ({unusable.rpartition('.')[2]}), which can't be used.",
            hint="Use a plain LoRA or LoCon; many tools convert to one.",
        )
    if not any(_SUFFIX.fullmatch(name) for name in header.shapes):
        raise MissingError(f"{file.name} is {header.kind}, not a LoRA.", hint="Check the name.")
    own = family_of(header)
    if own is not None and own != family:
        raise MissingError(
            f"{file.name} is a LoRA for {own}, and the checkpoint is {family}.",
            hint="Use a LoRA that was made for the checkpoint's family.",
        )


def family_of(header: Header) -> str | None:
    """The family ("sd1", "sd2", "sdxl", or another's name) that a LoRA was made for, where its header tells."""
    names = header.shapes
    if any(_OTHERS.search(name) for name in names):
        return "another family"
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in names):
        return "sdxl"
    for name, shape in names.items():
        if re.search(r"attn2[._](processor\.)?to_k", name) and re.search(r"(down|A(\.default)?)\.weight$", name):
            return _WIDTHS.get(shape[1]) if len(shape) > 1 else None
    said = header.metadata.get("ss_base_model_version", "").lower()
    return next(
        (family for mark, family in (("sdxl", "sdxl"), ("sd_v1", "sd1"), ("sd_v2", "sd2")) if mark in said), None
    )


def parameters(file: Path) -> tuple[int, int]:
    """How many numbers a file puts on the text encoders and on the UNet, by its header. Raises MissingError."""
    text = unet = 0
    for name, shape in read_header(file).shapes.items():
        if match := _SUFFIX.fullmatch(name):
            if _place(match["stem"])[0] == UNET:
                unet += prod(shape)
            else:
                text += prod(shape)
    return text, unet


def read(file: Path) -> dict[tuple[str, str], Delta]:
    """(part, module's name with "_" for ".") → its change. Raises MissingError when the file is damaged or incomplete."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise MissingError(f"{file} can't be read: {error}.", hint="It may be cut short: download it again.") from error
    said = _said(read_header(file).metadata)
    halves: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    alphas: dict[tuple[str, str], float] = {}
    for name, value in tensors.items():
        if name.endswith(".alpha") and value.numel() == 1:
            alphas[_place(name.removesuffix(".alpha"))] = float(value)
        elif match := _SUFFIX.fullmatch(name):
            halves.setdefault(_place(match["stem"]), {})[_half(match)] = value
    found = {}
    for place, pair in halves.items():
        down, up = pair.get("down"), pair.get("up")
        if down is None or up is None or down.ndim < 2 or up.ndim < 2 or up.shape[1] != down.shape[0]:
            raise MissingError(f"{file.name} lacks a half of {place[1]}.", hint="The file is damaged: get it again.")
        found[place] = Delta(down, up, alphas.get(place, said.get(place[0], float(down.shape[0]))))
    return found


def down_half(name: str) -> str | None:
    """The part (UNET, TEXT, TEXT_2) that a tensor of this name changes, if it is the first half of a module's change."""
    match = _SUFFIX.fullmatch(name)
    return _place(match["stem"])[0] if match and _half(match) == "down" else None


def _half(match: re.Match[str]) -> Literal["down", "up"]:
    return "down" if (match["a"] or match["b"] or match["c"] or match["d"]) in _DOWN else "up"


def _place(stem: str) -> tuple[str, str]:
    """(part, normal name) of a tensor's stem; the UNet where nothing says which part."""
    stem = stem.removeprefix("base_model.model.")
    part, rest = next(
        ((p, stem.removeprefix(prefix)) for prefix, p in _PREFIXES if stem.startswith(prefix)), (UNET, stem)
    )
    name = rest.replace(".processor.", ".").replace(".", "_")
    return part, name.removeprefix("text_model_") if part != UNET else name


def _said(metadata: Mapping[str, str]) -> dict[str, float]:
    """diffusers' own note of each part's alpha."""
    try:
        body: Any = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    pairs = body.items() if isinstance(body, dict) else ()
    return {
        key.removesuffix(".lora_alpha"): float(value)
        for key, value in pairs
        if key.endswith(".lora_alpha") and isinstance(value, int | float)
    }


def merged(loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """Each file once, its weights added up, in order; those that do nothing are gone."""
    found: dict[Path, Lora] = {}
    for one in loras:
        before = found.get(one.file)
        if before:
            one = Lora(
                one.name, one.file, one.text + before.text, one.unet + before.unet, one.required or before.required
            )
        found[one.file] = one
    return tuple(one for one in found.values() if one.text or one.unet)
