"""The flags that set settings: each says which, and its help is the setting's own description."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tilehires.batch.cluster import Cluster
    from tilehires.config import Config


DETAIL_HELP = "Detect-and-inpaint passes by detector, in order (face, or your own of ./detectors); none: no passes."


@dataclass
class Given:
    """What the command line says about settings, collected while click reads it."""

    preset: str | None = None
    flags: list[tuple[str, dict[str, dict[str, Any]]]] = field(default_factory=list)
    overrides: list[dict[str, dict[str, Any]]] = field(default_factory=list)


class SettingOption(click.Option):
    """A flag for one or several settings. `settings`: "section.key" of each; `also`: what it resets when given."""

    def __init__(
        self, *declarations: str, settings: tuple[str, ...], also: Mapping[str, Any] | None = None, **rest: Any
    ):
        super().__init__([*declarations], expose_value=False, callback=self._collect, **rest)
        self.settings = settings
        self.also = also or {}

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if not self.help:
            from tilehires.config.layers import sections

            section, _, key = self.settings[0].partition(".")
            self.help = sections()[section].model_fields[key].description
        return super().get_help_record(ctx)

    def _collect(self, ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(self.name or "") is click.core.ParameterSource.DEFAULT:
            return
        self._given(ctx, value)

    def _given(self, ctx: click.Context, value: Any) -> None:
        add(ctx, self.opts[-1], {**self.also, **dict.fromkeys(self.settings, value)})


class SizeOption(SettingOption):
    """--size WxH: two settings from one value."""

    def _given(self, ctx: click.Context, value: str) -> None:
        from tilehires.geometry import Size

        try:
            size = Size.parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, self) from error
        if not size.long_side:
            raise click.BadParameter("0x0 is no size; give at least one side, like 2048x0", ctx, self)
        add(ctx, "--size", {"hires.resize_x": size.width, "hires.resize_y": size.height})


class DetailOption(SettingOption):
    """--detail face,hand: passes by their detectors' names."""

    def _given(self, ctx: click.Context, value: str) -> None:
        add(ctx, "--detail", {"detail.passes": [name.strip() for name in value.split(",") if name.strip()]})


def given(ctx: click.Context) -> Given:
    """What was collected for this command."""
    return ctx.meta.setdefault("tilehires.given", Given())


def add(ctx: click.Context, flag: str, settings: Mapping[str, Any]) -> None:
    """Note settings ("section.key" → value) that a flag makes."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        values.setdefault(section, {})[key] = value
    given(ctx).flags.append((f"flag {flag}", values))


def config_of(ctx: click.Context) -> Config:
    """The settings of a command: preset, flags, then --set. Raises ConfigError, and UsageError for flags at odds."""
    from tilehires.config import Config

    said = given(ctx)
    names = {origin for origin, _ in said.flags}
    if {"flag --scale", "flag --size"} <= names:
        raise click.UsageError("--scale and --size both say how large the output is: give one of them.", ctx)
    config = Config.load(said.preset)
    for origin, values in said.flags:
        config = config.with_layer(values, origin)
    for values in said.overrides:
        config = config.with_layer(values, "flag --set")
    return config


def _preset(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    given(ctx).preset = value


def _overrides(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    if values:
        from tilehires.config import parse_set

        given(ctx).overrides.extend(parse_set(value) for value in values)


def _flag(*declarations: str, setting: str, also: Mapping[str, Any] | None = None, **rest: Any) -> SettingOption:
    return SettingOption(*declarations, settings=tuple(setting.split()), also=also, **rest)


def _own_prompt(key: str) -> dict[str, None]:
    """A prompt or seed from the command line is that of all passes, whatever a preset or sidecar gave one of them."""
    return {f"hires.{key}": None, f"tiled.{key}": None}


def preset_option() -> click.Option:
    """-c: the preset."""
    return click.Option(
        ["-c", "--config"],
        metavar="NAME|FILE",
        expose_value=False,
        callback=_preset,
        help=(
            "A preset by name (default, simple, sd15, sdxl, sdxl-refiner, photo, anime, overnight-8gb, or from ./configs), "
            "or any TOML."
        ),
    )


def _options() -> list[click.Option]:
    return [
        preset_option(),
        _flag("--checkpoint", setting="model.checkpoint", metavar="FILE|FOLDER|ID"),
        _flag("--scale", setting="hires.scale", also={"hires.resize_x": 0, "hires.resize_y": 0}, metavar="N"),
        SizeOption(
            "--size",
            settings=("hires.resize_x", "hires.resize_y"),
            metavar="WxH",
            help="Output size: the image covers it and is cropped; a 0 follows the aspect (2048x0).",
        ),
        _flag("--max-side", setting="hires.max_side", metavar="N"),
        _flag("--denoise", setting="hires.denoise tiled.denoise", metavar="F"),
        _flag("--steps", setting="hires.steps tiled.steps", metavar="N"),
        _flag("--seed", setting="generate.seed", also=_own_prompt("seed"), metavar="N"),
        _flag("--prompt", setting="generate.prompt", also=_own_prompt("prompt"), metavar="TEXT"),
        _flag(
            "--negative-prompt", setting="generate.negative_prompt", also=_own_prompt("negative_prompt"), metavar="TEXT"
        ),
        DetailOption("--detail", settings=("detail.passes",), metavar="NAME[,NAME]", help=DETAIL_HELP),
        _flag("--vram", setting="memory.vram", metavar="8GB"),
        _flag("--device", setting="run.device", metavar="NAME"),
        click.Option(
            ["--set", "overrides"],
            multiple=True,
            metavar="section.key=value",
            expose_value=False,
            callback=_overrides,
            help="Any setting of docs/settings.md; repeatable, and wins over the other flags.",
        ),
        _flag("--strict", setting="run.strict", is_flag=True),
        _flag("--deterministic", setting="run.deterministic", is_flag=True),
        _flag("--limit", setting="run.limit", metavar="N"),
    ]


def prompt_options(command: click.Command) -> click.Command:
    """Give a command the flags of prompt jobs in folders."""
    command.params += [
        _flag("--generate", setting="run.generate", is_flag=True),
        _flag("--first-pass-only", setting="run.first_pass_only", is_flag=True),
    ]
    return command


def count_options(command: click.Command) -> click.Command:
    """Give a command the flags of prompts that are named on its line."""
    command.params += [
        _flag("--count", setting="generate.count", metavar="N"),
        _flag("--first-pass-only", setting="run.first_pass_only", is_flag=True),
    ]
    return command


def cluster_options(command: click.Command) -> click.Command:
    """Give a command the flags of a run on several GPUs or machines."""
    command.params += [
        click.Option(
            ["--cluster"],
            metavar="ADDRESS|local",
            help="Share the images among workers by Ray: those of a cluster, or one for each GPU of this machine.",
        ),
        click.Option(
            ["--workers"],
            type=click.IntRange(1),
            metavar="N",
            help="With --cluster, how many workers; else one for each GPU, without any one for each machine.",
        ),
    ]
    return command


@contextlib.contextmanager
def cluster_of(ctx: click.Context, address: str | None, workers: int | None) -> Iterator[Cluster | None]:
    """The workers that --cluster asks for; None without it. Raises RunError, and UsageError for --workers alone."""
    if address is None:
        if workers:
            raise click.UsageError("--workers needs --cluster: an address, or local.", ctx)
        yield None
        return
    from tilehires.batch.cluster import joined

    with joined(address, workers or 0) as cluster:
        yield cluster


def setting_options(command: click.Command) -> click.Command:
    """Give a command the flags that set settings, between its arguments and its own flags."""
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    own = [param for param in command.params if not isinstance(param, click.Argument)]
    command.params = [*arguments, *_options(), *own]
    return command
