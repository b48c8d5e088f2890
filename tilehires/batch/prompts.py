"""Jobs from prompts: those of a command line or a list, and how many pictures a prompt in a folder asks for."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tilehires.batch.address import Place
from tilehires.batch.discover import Discovery, Found, Prompt, Skipped, discover
from tilehires.batch.job import config_of, seed_of
from tilehires.config import Config
from tilehires.config.presets import LARGEST
from tilehires.errors import ConfigError, ImageError, NothingToDoError, RunError
from tilehires.images import suffix_of

WORDS = 40  # characters of a prompt in the name of its picture


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file, one per line; empty lines don't count. Raises ConfigError."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(
                f"{path} has more than {LARGEST} bytes: no list of prompts.", hint="Is it the right file?"
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", hint="Name a text file of prompts.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ConfigError(f"{path} holds no prompt.", hint="Write one prompt per line.")
    return prompts


def pictures_of(config: Config) -> Callable[[Sequence[Path]], int] | None:
    """How many pictures files of a folder ask for, for `discover`; None where prompts are no jobs."""
    if not config.settings.run.generate:
        return None

    def count(files: Sequence[Path]) -> int:
        try:
            return config.for_image(None, files).settings.generate.count
        except ImageError:
            return 1  # which then fails with this error

    return count


def discovered(source: Path, place: Place, config: Config) -> Discovery:
    """What a run with these settings has to do of a folder, or of one file. Raises as `discover`."""
    settings = config.settings.run
    found = discover(
        source,
        *place.written,
        suffix=suffix_of(settings.format),
        follow_links=settings.resolve_links,
        pictures=pictures_of(config),
    )
    return previews(found) if settings.first_pass_only else found


def previews(found: Discovery) -> Discovery:
    """What has a first pass. Raises NothingToDoError when nothing has."""
    prompts = tuple(one for one in found.found if one.prompt)
    if not prompts:
        raise NothingToDoError(
            "There is no prompt, and images have no first pass.",
            hint="Add --generate for the prompts of a folder, or leave --first-pass-only away.",
        )
    reason = "an image, which has no first pass (--first-pass-only)"
    left_out = tuple(Skipped(one.id, reason) for one in found.found if not one.prompt)
    return Discovery(found.root, prompts, (*found.skipped, *left_out))


def jobs_of(prompts: Sequence[str], config: Config, suffix: str, root: Path) -> Discovery:
    """One job for each picture of each prompt. A prompt said again goes on with the next seed.

    A picture is named after its prompt's first words, and what it and the seed hash to: another prompt or seed is another
    file, the same ones are the same. `root`: the file of the prompts, or the folder they were said in. Raises RunError
    when there is no prompt.
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise RunError("The prompt is empty.", hint='Say what the picture shows: tilehires generate "a red fox".')
    said, found = Counter[str](), []
    for prompt in prompts:
        for _ in range(config.settings.generate.count):
            job = Found("", root, "", (), Prompt(prompt, said[prompt]))
            said[prompt] += 1
            name = _name(job, config)
            found.append(Found(name, root, name + suffix, (), job.prompt, f"{name}.before{suffix}"))
    return Discovery(root if root.is_dir() else root.parent, tuple(found), ())


def _name(job: Found, config: Config) -> str:
    prompt = job.prompt or Prompt()
    text = prompt.text or ""
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    seed = seed_of(config_of(job, prompt, config).settings, sha256, prompt)
    key = hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()[:8]
    words = re.sub(r"\W+", "-", text.lower())[:WORDS].strip("-_")
    return f"{words}-{key}" if words else key
