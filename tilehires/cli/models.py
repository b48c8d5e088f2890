"""`tilehires models`: which models are found, and what a file is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tilehires import detectors
from tilehires.cli.merge import merge
from tilehires.errors import MissingError, TilehiresError

if TYPE_CHECKING:
    from tilehires.diffusion.checkpoints import Checkpoint

VARIABLE = "TILEHIRES_MODELS"
LARGEST_EMBEDDING = 64 << 20  # bytes: thousands of times the usual
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")


@click.group(invoke_without_command=True)
@click.option("--samplers", is_flag=True, help="List the samplers and schedules instead: what each is run by.")
@click.pass_context
def models(ctx: click.Context, samplers: bool) -> None:
    """List the models that are found: the built-in ones, and the files in ./models.

    The environment variable TILEHIRES_MODELS names other folders, separated as in PATH. Reads headers only.
    """
    if ctx.invoked_subcommand is None:
        click.echo("\n".join(_samplers() if samplers else _listing()))


@models.command()
@click.argument("file")
def inspect(file: str) -> None:
    """Say what FILE is: a checkpoint (a .safetensors file, a diffusers folder, a hub id, "builtin"), LoRA, embedding,
    upscaler or detector.

    Prints family, layout, size and hash; of a LoRA its rank, what it changes and the words it was trained with. Reads the
    headers of checkpoints and LoRAs only, and then their bytes for the hash. No code of a file is run.
    """
    click.echo("\n".join(_described(file)))


@models.command()
@click.argument("hub_id")
@click.argument("file", required=False)
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Where a file goes.")
@click.option("--revision", metavar="NAME", help="A branch, tag or commit of the repository.")
@click.option("--allow-pickle", is_flag=True, help="Fetch .pth, .pt, .ckpt and .bin too, which can carry code.")
def fetch(hub_id: str, file: str | None, to: Path | None, revision: str | None, allow_pickle: bool) -> None:
    """Download a model from the Hugging Face hub: the only command of tilehires that uses the network.

    With FILE that file, into ./models (or the first folder of TILEHIRES_MODELS). Without, a diffusers repository whole, into
    the hub's own cache, or the only .safetensors file of any other repository. A file that is there is never replaced.
    """
    from tilehires.diffusion.fetch import fetch as fetch_model

    got = fetch_model(hub_id, file, to or _folders()[0], revision=revision, allow_pickle=allow_pickle)
    click.echo(f"Fetched {got.path}")
    click.echo(f"Use it by the name {got.reference}; tilehires models inspect says what it is.")


models.add_command(merge)


def _listing() -> Iterator[str]:
    from tilehires import upscalers
    from tilehires.diffusion import checkpoints

    yield "Checkpoints (--checkpoint)"
    yield f"  builtin  {_summary(checkpoints.inspect('builtin'))}"
    yield "Upscalers (--set hires.upscaler=NAME, or a model file)"
    yield f"  {', '.join(upscalers.names())}"
    for folder in _folders():
        if not folder.is_dir():
            yield f"{folder}: no such folder. Put models there, or name another in {VARIABLE}."
            continue
        yield f"{folder}"
        found = list(_files(folder))
        for path in found:
            yield f"  {path.relative_to(folder)}  {_size(_weights_of(path))}  {_kind(path)}"
        if not found:
            yield "  (no model)"


def _samplers() -> Iterator[str]:
    from tilehires.diffusion import samplers

    yield "Samplers (generate.sampler), what Automatic means, and what runs them"
    for name, row in samplers.SAMPLERS.items():
        arguments = ", ".join(f"{key}={value}" for key, value in row.arguments.items())
        yield f"  {name:20} {row.automatic:12} {row.scheduler.removesuffix('Scheduler')} {arguments}".rstrip()
    yield "Schedules (generate.scheduler)"
    for name in samplers.SCHEDULES:
        without = [one for one in samplers.SAMPLERS if not samplers.follows(one, name)]
        which = f"not with {', '.join(without)}" if without else "with all"
        yield f"  {name:20} {which}"
    yield f"  {'Automatic':20} what the sampler does best with, as above"
    yield f"Not to be had: {', '.join(samplers.UNSUPPORTED)}"
    yield from samplers.NOTES.values()
    yield "ComfyUI's, InvokeAI's and NovelAI's names are understood as well: docs/samplers.md."


def _folders() -> list[Path]:
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return named or [Path("models")]


def _files(folder: Path) -> Iterator[Path]:
    """Diffusers folders whole, model files one by one, in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / "model_index.json").is_file():
            yield from _files(path)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            yield path


def _weights_of(path: Path) -> list[Path]:
    return sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]


def _kind(path: Path) -> str:
    from tilehires.diffusion import checkpoints

    try:
        return _summary(checkpoints.inspect(str(path), inpainting=True))
    except TilehiresError as error:
        return f"no checkpoint: {error.message}"


def _summary(checkpoint: Checkpoint) -> str:
    family = checkpoint.family
    inpainting = ", inpainting (for [[detail]] passes)" if checkpoint.inpainting else ""
    return f"{family.title}, {checkpoint.layout}, {checkpoint.prediction}, native {family.native} px{inpainting}"


def _described(file: str) -> Iterator[str]:
    from tilehires.diffusion import checkpoints

    path = Path(file).expanduser()
    try:
        checkpoint = checkpoints.inspect(file, inpainting=True)
    except MissingError as error:
        yield from _other(path, error)
        return
    yield f"{file}: a checkpoint"
    yield f"  family      {checkpoint.family.name} ({checkpoint.family.title})"
    yield f"  layout      {checkpoint.layout}"
    yield f"  prediction  {checkpoint.prediction}"
    yield f"  native      {checkpoint.family.native} px"
    if checkpoint.inpainting:
        yield "  inpainting  yes: the checkpoint of a [[detail]] pass, of no other"
    yield from _weights(checkpoint.path, checkpoint.files)


def _other(path: Path, no_checkpoint: MissingError) -> Iterator[str]:
    """What else a file may be, described: a detector, an addon, an upscaler. A `.pt` may be any of them."""
    suffix = path.suffix.lower()
    if suffix in detectors.MEDIAPIPE and path.is_file():
        from tilehires.detectors.mediapipe import task_of

        yield f"{path}: a detector (mediapipe)"
        yield f"  task        {task_of(path)}"
        yield from _weights(path, (path,))
        return
    if addon := _addon(path):
        kind, facts = addon
        yield f"{path}: {kind}"
        yield from (f"  {name:<11} {value}" for name, value in facts.items())
        yield from _weights(path, (path,))
        return
    try:
        yield from list(_upscaler(path, no_checkpoint))
    except MissingError:
        if suffix not in detectors.YOLO or not path.is_file():
            raise
        yield from _yolo(path)


def _addon(path: Path) -> tuple[str, dict[str, str]] | None:
    """A LoRA's or embedding's kind and facts; None for a file that is neither."""
    from tilehires.diffusion import addons, embeddings
    from tilehires.diffusion.header import read_header

    suffix = path.suffix.lower()
    if suffix not in embeddings.SUFFIXES or not path.is_file():
        return None
    try:
        if suffix == ".safetensors" and read_header(path).kind == "a LoRA":
            return "a LoRA", addons.lora_facts(path)
        if path.stat().st_size <= LARGEST_EMBEDDING:
            return "an embedding", addons.embedding_facts(path)
    except MissingError:
        pass  # the next kind is tried, and the last one says what is wrong
    return None


def _yolo(path: Path) -> Iterator[str]:
    from tilehires.detectors.yolo import describe

    facts = describe(path)
    yield f"{path}: a detector (YOLO)"
    for name, value in facts.items():
        yield f"  {name:<11} {value}"
    yield from _weights(path, (path,))


def _upscaler(path: Path, no_checkpoint: MissingError) -> Iterator[str]:
    """An upscaler's description. Raises the error of the first look where the file is no upscaler either."""
    from tilehires.upscalers.loading import load

    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        raise no_checkpoint
    try:
        model = load(path)
    except MissingError as error:
        raise no_checkpoint from error
    yield f"{path}: an upscaler"
    yield f"  family      {model.architecture.name}"
    yield f"  scale       {model.scale}x"
    yield from _weights(path, (path,))


def _weights(root: Path, files: Sequence[Path]) -> Iterator[str]:
    import hashlib

    yield f"  size        {_size(files)}"
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield f"  sha256      {digest}  {file.name if file == root else file.relative_to(root).as_posix()}"


def _size(files: Sequence[Path]) -> str:
    total = sum(file.stat().st_size for file in files)
    return f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.2f} MB"
