"""Which files of a folder are images or prompts to do, under which name each is written, and why the others are skipped."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilehires.errors import NothingToDoError, RunError
from tilehires.images import SUFFIXES

SIDECAR_SUFFIXES = (".toml", ".txt")
OURS = (".tilehires", "report", "review")
"""Folders of an output folder that hold no outputs. The first tells that it is one."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A picture that is still to be made. `text`: its prompt, None where its sidecars say it. `number`: which of several of
    one prompt it is, from 0; its seed is that much higher.
    """

    text: str | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """An image to do: `id` is its path in the input folder with forward slashes, `output` the same in the output folder.

    With a `prompt` there is no image as yet: `path` is the file that asks for it. `before`: where its first pass goes.
    """

    id: str
    path: Path
    output: str
    sidecars: tuple[Path, ...]
    prompt: Prompt | None = None
    before: str = ""


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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Something to do whose output has no name yet. `name`: the file name the output's is made from."""

    name: str
    path: Path
    sidecars: tuple[Path, ...]
    prompt: Prompt | None = None


def discover(
    source: Path,
    *outputs: Path,
    suffix: str,
    follow_links: bool = False,
    pictures: Callable[[Sequence[Path]], int] | None = None,
) -> Discovery:
    """Look at a folder and all its subfolders, or at one file.

    `suffix` is the outputs' (".png"). `pictures`: how many pictures the prompt and settings in some files ask for; None:
    prompts without an image are skipped. Raises NothingToDoError when nothing is to be done, RunError when
    there is nothing to look at, or when the output folder lies inside the input folder: the next run would take its outputs
    for inputs.
    """
    if not source.exists():
        raise RunError(f"There is no {source}.", hint="Name a folder of images or one image: tilehires run FOLDER.")
    if source.is_file():
        root, walked, follow_links = source.parent, [(source.name, source, "")], True
    elif not source.is_dir():
        raise RunError(f"{source} is neither a folder nor a file.", hint="Name a folder of images or one image.")
    else:
        for output in outputs:
            inside = output.resolve()
            if inside == source.resolve() or source.resolve() in inside.parents:
                raise RunError(
                    f"The output folder {output} lies inside the input folder {source.resolve()}.",
                    hint="Choose a folder outside of it with -o, or the next run would upscale the outputs.",
                )
        root, walked = source, sorted(_walk(source, source, follow_links))
    wanted = {
        name: _Wanted(
            name,
            path,
            _beside(path, (path.with_suffix, lambda end, path=path: path.with_name(path.name + end)), follow_links),
        )
        for name, path, reason in walked
        if not reason and _is_image(path)
    }
    used = {beside for image in wanted.values() for beside in image.sidecars}
    if pictures:
        lone = [(name, path) for name, path, reason in walked if not reason and path not in used]
        wanted |= _prompts([(name, path) for name, path in lone if _is_sidecar(path)], pictures, follow_links)
        used |= {beside for one in wanted.values() for beside in one.sidecars}
    taken = used | {one.path for one in wanted.values()}
    skipped = [Skipped(name, reason or _why_not(path)) for name, path, reason in walked if path not in taken]
    if not wanted:
        raise NothingToDoError(f"There is no image in {source}.", hint=_advice(source, skipped))
    return Discovery(root, tuple(_named(wanted, suffix)), tuple(skipped))


def _beside(path: Path, names: Sequence[Callable[[str], Path]], follow_links: bool) -> tuple[Path, ...]:
    """The sidecars of a file that exist; a link may lead to what was never meant to be a prompt."""
    found = (name(end) for end in SIDECAR_SUFFIXES for name in names)
    # Path.is_file raises on a name that is too long, as that of a 255-byte one's sidecar is.
    files = (one for one in found if os.path.isfile(one) and (follow_links or not os.path.islink(one)))  # noqa: PTH113, PTH114
    return tuple(dict.fromkeys(files))


def _prompts(
    lone: Sequence[tuple[str, Path]], pictures: Callable[[Sequence[Path]], int], follow_links: bool
) -> dict[str, _Wanted]:
    """Jobs from prompts and settings without an image; fox.txt and fox.toml together are one."""
    jobs: dict[str, _Wanted] = {}
    stems: set[Path] = set()
    # A .txt before a .toml: it gives the job its name.
    for name, path in sorted(lone, key=lambda one: one[1].suffix.lower() != ".txt"):
        stem = path.with_suffix("")
        if stem in stems:
            continue
        stems.add(stem)
        sidecars = tuple(dict.fromkeys((*_beside(path, (path.with_suffix,), follow_links), path)))
        count = pictures(sidecars)
        for number in range(count):
            shown = name if count == 1 else f"{stem.name}-{number + 1}{path.suffix}"
            label = name if count == 1 else f"{name}#{number + 1}"
            folder, _, _ = name.rpartition(path.name)
            jobs[label] = _Wanted(folder + Path(shown).name, path, sidecars, Prompt(number=number))
    return dict(sorted(jobs.items(), key=lambda item: (item[1].path, item[1].prompt.number if item[1].prompt else 0)))


def _named(wanted: Mapping[str, _Wanted], suffix: str) -> Iterator[Found]:
    outputs = _output_names({label: one.name for label, one in wanted.items()}, suffix)
    taken = {output.casefold() for output in outputs.values()}
    for label, one in wanted.items():
        before = ""
        if one.prompt:
            before = str(Path(outputs[label]).with_suffix(f".before{suffix}").as_posix())
            while before.casefold() in taken:
                before = Path(before).with_suffix(f".before{suffix}").as_posix()
            taken.add(before.casefold())
        yield Found(label, one.path, outputs[label], one.sidecars, one.prompt, before)


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
    finished = OURS[0] in {entry.name for entry in listed}
    for entry in listed:
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        if entry.name.startswith("."):
            yield name, path, "hidden"
        elif entry.is_symlink() and not (follow_links and path.is_file()):
            yield name, path, "a symbolic link (--set run.resolve_links=true follows links to files)"
        elif finished and entry.name in OURS and entry.is_dir():
            yield name, path, "what tilehires keeps beside finished images"
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


def _is_sidecar(path: Path) -> bool:
    return path.suffix.lower() in SIDECAR_SUFFIXES


def _why_not(path: Path) -> str:
    if _is_sidecar(path):
        return "a prompt or settings without an image of the same name (--generate makes one)"
    return f"not an image by its name ({path.suffix or 'no extension'})"


def _advice(source: Path, skipped: list[Skipped]) -> str:
    known = ", ".join(sorted(SUFFIXES))
    if not skipped:
        return f"Put images into it ({known})."
    return f"{len(skipped)} other file(s) are there; images end in {known}."


def _output_names(wanted: Mapping[str, str], suffix: str) -> dict[str, str]:
    """Each id's output path, from its file name: the stem, and where two share one (also but for case), the whole id.

    Names that still collide with another's ("a.jpg.png" beside "a.jpg" and "a.png") keep their whole ids as well.
    """
    whole = {label: label + suffix for label in wanted}
    chosen = {label: Path(name).with_suffix(suffix).as_posix() for label, name in wanted.items()}
    while True:
        count = Counter(output.casefold() for output in chosen.values())
        clash = [label for label in wanted if count[chosen[label].casefold()] > 1 and chosen[label] != whole[label]]
        if not clash:
            return chosen
        chosen |= {label: whole[label] for label in clash}
