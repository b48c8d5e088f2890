"""Which files of a folder are images to do, under which name each is written, and why the others are skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tilehires.errors import RunError
from tilehires.images import SUFFIXES

SIDECAR_SUFFIXES = (".toml", ".txt")


@dataclass(frozen=True, slots=True)
class Found:
    """An image to do: `id` is its path in the input folder with forward slashes, `output` the same in the output folder."""

    id: str
    path: Path
    output: str
    sidecars: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that isn't done, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """Everything under one input, in the order of the ids. `root` is the folder that the ids are relative to."""

    root: Path
    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]


def discover(source: Path, output: Path, *, suffix: str, follow_links: bool = False) -> Discovery:
    """Look at a folder and all its subfolders, or at one file.

    `suffix` is the outputs' (".png"). Raises RunError when there is nothing to look at, no image, or when the output folder
    lies inside the input folder: the next run would take its outputs for inputs.
    """
    if not source.exists():
        raise RunError(f"There is no {source}.", hint="Name a folder of images or one image: tilehires run FOLDER.")
    if source.is_file():
        root, walked = source.parent, [(source.name, source, "")]
    else:
        inside = output.resolve()
        if inside == source.resolve() or source.resolve() in inside.parents:
            raise RunError(
                f"The output folder {output} lies inside the input folder {source}.",
                hint="Choose a folder outside of it with -o, or the next run would upscale the outputs.",
            )
        root, walked = source, sorted(_walk(source, source, follow_links))
    images = [(name, path) for name, path, reason in walked if not reason and _is_image(path)]
    taken = {path for _, path in images}
    sidecars: dict[Path, list[Path]] = {}
    for path in taken:
        for extension in SIDECAR_SUFFIXES:
            for beside in (path.with_suffix(extension), path.with_name(path.name + extension)):
                # Path.is_file raises on a name that is too long, as that of a 255-byte one's sidecar is.
                if os.path.isfile(beside) and beside not in sidecars.get(path, []):  # noqa: PTH113
                    sidecars.setdefault(path, []).append(beside)
    used = {beside for besides in sidecars.values() for beside in besides}
    skipped = [
        Skipped(name, reason or _why_not(path))
        for name, path, reason in walked
        if path not in taken and path not in used
    ]
    if not images:
        raise RunError(f"There is no image in {source}.", hint=_advice(source, skipped))
    outputs = _output_names([name for name, _ in images], suffix)
    found = [Found(name, path, outputs[name], tuple(sidecars.get(path, ()))) for name, path in images]
    return Discovery(root, tuple(found), tuple(skipped))


def _walk(folder: Path, root: Path, follow_links: bool) -> Iterator[tuple[str, Path, str]]:
    """(id, path, reason to skip or "") of everything below. Links are not followed: they may lead out, or in circles."""
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        if folder == root:
            raise RunError(f"{root} can't be read: {error.strerror}.", hint="Check its permissions.") from error
        yield folder.relative_to(root).as_posix(), folder, f"a folder that can't be read ({error.strerror})"
        return
    for entry in listed:
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        if entry.name.startswith("."):
            yield name, path, "hidden"
        elif entry.is_symlink() and not (follow_links and path.is_file()):
            yield name, path, "a symbolic link (--set run.resolve_links=true follows links to files)"
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(path, root, follow_links)
        elif not path.exists():
            yield name, path, "gone while the folder was read"
        elif not stat.S_ISREG(path.stat().st_mode):
            yield name, path, "no regular file"
        else:
            yield name, path, ""


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _why_not(path: Path) -> str:
    if path.suffix.lower() in SIDECAR_SUFFIXES:
        return "a prompt or settings without an image of the same name"
    return f"not an image by its name ({path.suffix or 'no extension'})"


def _advice(source: Path, skipped: list[Skipped]) -> str:
    known = ", ".join(sorted(SUFFIXES))
    if not skipped:
        return f"Put images into it ({known})."
    return f"{len(skipped)} other file(s) are there; images end in {known}."


def _output_names(ids: list[str], suffix: str) -> dict[str, str]:
    """Each id's output path: the stem, and where two inputs share one (also but for case), the whole name.

    Names that still collide with another's ("a.jpg.png" beside "a.jpg" and "a.png") keep their whole names as well.
    """
    plain = {name: Path(name).with_suffix(suffix).as_posix() for name in ids}
    whole = {name: name + suffix for name in ids}
    count = Counter(output.casefold() for output in plain.values())
    chosen = {name: plain[name] if count[plain[name].casefold()] == 1 else whole[name] for name in ids}
    while True:
        count = Counter(output.casefold() for output in chosen.values())
        clash = [name for name in ids if count[chosen[name].casefold()] > 1 and chosen[name] != whole[name]]
        if not clash:
            return chosen
        chosen |= {name: whole[name] for name in clash}
