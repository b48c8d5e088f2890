"""The effective settings of a run or an image, and the origin of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tilehires.config.layers import Layer, Rank, check_names, merge, sections
from tilehires.config.presets import read, read_default, read_file, shipped
from tilehires.config.settings import Settings
from tilehires.config.sidecar import read_sidecar
from tilehires.errors import ConfigError, ImageError, MissingError

# What is tuned for one checkpoint, and so doesn't carry over from the default preset to another checkpoint.
MODEL_BOUND = frozenset(
    {"checkpoint", "vae", "dtype", "prediction", "clip_skip"}
    | {"steps", "cfg", "sampler", "scheduler", "denoise", "tile_min", "tile_max", "overlap", "max_canvas"}
    | {"percentiles", "score_limit"}
)
BUILTIN = "builtin"
FAMILY_PRESETS = {BUILTIN: "default", "sd1": "sd15", "sd2": "sd15", "sdxl": "sdxl", "sdxl-refiner": "sdxl"}

# The name in an image's metadata → the setting it fills in.
_ALWAYS = {
    "prompt": ("generate", "prompt"),
    "negative_prompt": ("generate", "negative_prompt"),
    "seed": ("generate", "seed"),
    "seamless": ("model", "seamless"),
}
_SAME_FAMILY = {
    "steps": ("generate", "steps"),
    "cfg": ("generate", "cfg"),
    "sampler": ("generate", "sampler"),
    "scheduler": ("generate", "scheduler"),
    "clip_skip": ("model", "clip_skip"),
}


@dataclass(frozen=True)
class Config:
    """Frozen settings, each with its origin.

    `origins`: "section.key" → "flag --scale", "sidecar photo.toml", "preset sd15", "metadata (ComfyUI)",
    "family sdxl", "preset default" or "default". `family`: the checkpoint's, "" while unknown.
    Precedence: flags › sidecar › preset named with -c › image metadata › default preset › what suits the model family.
    `notes` says what of an image's metadata was left out, and why.
    """

    layers: tuple[Layer, ...] = ()
    family: str = ""
    notes: tuple[str, ...] = ()
    settings: Settings = field(init=False)
    origins: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        settings, origins = merge(self._effective())
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "origins", origins)

    @classmethod
    def load(cls, name_or_path: str | Path | None = None) -> Config:
        """The default preset, with the preset of that name, or the TOML of that path, above it. Raises ConfigError."""
        above = [] if name_or_path is None else read(str(name_or_path))
        return cls((*read_default(), *above))

    def with_layer(self, values: Mapping[str, Any], origin: str, rank: Rank = Rank.FLAG) -> Config:
        """The same with `values` ({"hires": {"scale": 3}}) put over all of that rank. Raises ConfigError."""
        check_names(values, origin)
        return replace(self, layers=(*self.layers, Layer(rank, origin, values)))

    def for_family(self, family: str) -> Config:
        """The same with what suits the checkpoint's family ("sd1", "sdxl", …) where nothing else says anything."""
        return replace(self, family=family)

    def for_image(
        self,
        metadata: Mapping[str, Any] | None = None,
        sidecars: Sequence[Path] = (),
        *,
        image_family: str | None = None,
        can_sample: Callable[[str, str], bool] | None = None,
        source: str = "",
        notes: Sequence[str] = (),
    ) -> Config:
        """The settings of one image: with its metadata and the files beside it.

        `metadata`: prompt, negative_prompt, seed, seamless, steps, cfg, sampler, scheduler, clip_skip, model, loras (tags
        that are put behind its prompt); None or absent is unknown. All but the first four count only when the image's family
        is the checkpoint's or unknown (`image_family` None). `source` is the tool that wrote it, named in the origins;
        `notes` are kept. `can_sample(sampler, scheduler)` says whether a pair named by metadata can be run; one
        that can't is left out with a note. Raises ImageError when a sidecar is wrong: that image fails, not the batch.
        """
        config = self
        try:
            # A .toml wins over a .txt, so it comes later.
            for path in sorted(sidecars, key=lambda path: path.suffix.lower() == ".toml"):
                config = replace(config, layers=(*config.layers, read_sidecar(path)))
        except ConfigError as error:
            raise ImageError(error.message, hint=error.hint) from error
        origin = f"metadata ({source})" if source else "image metadata"
        return replace(config, notes=(*config.notes, *notes))._with_metadata(
            metadata or {}, image_family, can_sample, origin
        )

    def from_image(self, name: str) -> bool:
        """Whether a setting's value ("generate.prompt") comes from the image's metadata."""
        return self.origins[name].startswith(("metadata (", "image metadata"))

    def require_checkpoint(self) -> str:
        """The checkpoint. Raises MissingError (exit 5) where a preset leaves it, or a pass's own, to a user who named none."""
        checkpoint = self.settings.model.checkpoint
        if not checkpoint:
            raise MissingError(
                f"{self.origins['model.checkpoint']} needs a checkpoint of yours.",
                hint="Name it with --checkpoint FILE.safetensors, or leave -c away to use the built-in model.",
            )
        for name in ("hires", "tiled"):
            if getattr(self.settings, name).checkpoint == "":
                raise MissingError(
                    f"{self.origins[f'{name}.checkpoint']} needs a checkpoint of yours for {name}.",
                    hint=f"Name it with --set {name}.checkpoint=FILE.safetensors.",
                )
        return checkpoint

    def _effective(self) -> list[Layer]:
        """The layers that count: with another checkpoint than the default preset's, what is tuned for that goes."""
        default = [layer for layer in self.layers if layer.rank is Rank.DEFAULT]
        if self._checkpoint(self.layers) == self._checkpoint(default):
            return list(self.layers)
        layers = [_split(layer)[0] if layer.rank is Rank.DEFAULT else layer for layer in self.layers]
        if self.family in FAMILY_PRESETS:
            path = shipped()[FAMILY_PRESETS[self.family]]
            tuned = _split(read_file(path, f"family {self.family}", Rank.FAMILY))[1]
            layers.append(tuned)
        return layers

    @staticmethod
    def _checkpoint(layers: Sequence[Layer]) -> str:
        models = [layer.values.get("model", {}) for layer in sorted(layers, key=lambda layer: layer.rank)]
        return next((model["checkpoint"] for model in reversed(models) if "checkpoint" in model), BUILTIN)

    def _with_metadata(
        self,
        metadata: Mapping[str, Any],
        image_family: str | None,
        can_sample: Callable[[str, str], bool] | None,
        origin: str,
    ) -> Config:
        values: dict[str, dict[str, Any]] = {}
        notes: list[str] = []
        wanted = dict(_ALWAYS)
        if self._same_family(metadata, image_family):
            wanted |= _SAME_FAMILY
            if metadata.get("prompt") is not None and metadata.get("loras"):
                metadata = {**metadata, "prompt": f"{metadata['prompt']} {metadata['loras']}".strip()}
        elif any(metadata.get(name) is not None for name in (*_SAME_FAMILY, "loras")):
            model = metadata.get("model") or "a model of another family"
            notes.append(
                f"Made with {str(model)[:80]}: its steps, CFG, sampler and LoRAs are left out with this checkpoint."
            )
        for name, (section, key) in wanted.items():
            value = metadata.get(name)
            if value is None:
                continue
            try:
                sections()[section].model_validate({key: value})
            except ValidationError:
                notes.append(f"Its metadata's {name} {str(value)[:40]!r} is out of range and was left out.")
                continue
            values.setdefault(section, {})[key] = value
        config = replace(self, layers=(*self.layers, Layer(Rank.METADATA, origin, values)), notes=(*self.notes, *notes))
        generate = config.settings.generate
        from_image = {k for k in ("sampler", "scheduler") if config.origins[f"generate.{k}"] == origin}
        if not from_image or can_sample is None or can_sample(generate.sampler, generate.scheduler):
            return config
        note = f"Its metadata's sampler, {generate.sampler} ({generate.scheduler}), can't be run here and was left out."
        return config.without_metadata("generate", from_image, note)

    def without_metadata(self, section: str, keys: Collection[str], note: str) -> Config:
        """The same less what the image's metadata says of these keys, and with a note on that."""

        def less(layer: Layer) -> Layer:
            kept = {key: value for key, value in layer.values.get(section, {}).items() if key not in keys}
            return replace(layer, values={**layer.values, section: kept}) if layer.rank is Rank.METADATA else layer

        return replace(self, layers=tuple(map(less, self.layers)), notes=(*self.notes, note))

    def _same_family(self, metadata: Mapping[str, Any], image_family: str | None) -> bool:
        if image_family is not None:
            return image_family == self.family
        # Nobody but tilehires makes images with the built-in model: one that names another model is of another family.
        other = metadata.get("model") not in (None, "", BUILTIN)
        return not (other and BUILTIN in (self.settings.model.checkpoint, self.family))


def _split(layer: Layer) -> tuple[Layer, Layer]:
    """(what suits any checkpoint, what is tuned for one)."""
    free, tuned = {}, {}
    for section, values in layer.values.items():
        free[section] = {k: v for k, v in values.items() if k not in MODEL_BOUND}
        tuned[section] = {k: v for k, v in values.items() if k in MODEL_BOUND}
    return replace(layer, values=free), replace(layer, values=tuned)
