"""Downloads from the Hugging Face hub, asked for by `tilehires models fetch`: the only place that uses the network."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tilehires.diffusion.checkpoints import HUB_ID
from tilehires.errors import ConfigError, MissingError

PICKLES = (".ckpt", ".pth", ".pt", ".bin", ".pkl", ".pickle")
WEIGHTS = (".safetensors", *PICKLES)
_FOLDER = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What a diffusers folder needs: never pickles, never code."""
_LIMIT_LISTED = 20


@dataclass(frozen=True)
class Fetched:
    """Where it is now, and what to give to --checkpoint or hires.upscaler."""

    path: Path
    reference: str


def fetch(
    repository: str, file: str | None, folder: Path, *, revision: str | None = None, allow_pickle: bool = False
) -> Fetched:
    """Download one weights file into `folder`, or a whole diffusers repository into the hub's own cache.

    Without `file` a diffusers repository is fetched whole, and of any other its only .safetensors file. Raises ConfigError
    for a name that is none, a pickle without `allow_pickle`, or a file that is in the way; MissingError for what the hub
    doesn't have, or when it can't be reached.
    """
    if not HUB_ID.fullmatch(repository):
        raise _no_id(repository)
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage] - whichever library's it is

    try:
        if file is None:
            listed = HfApi().list_repo_files(repository, revision=revision)
            if "model_index.json" in listed:
                return _folder(repository, listed, revision)
            file = _only(repository, listed, allow_pickle)
        return _file(repository, file, folder, revision, allow_pickle)
    except hub.HFValidationError as error:
        raise _no_id(repository) from error
    except hub.GatedRepoError as error:
        raise MissingError(
            f"{repository} wants its terms accepted first.",
            hint=f"Accept them at https://huggingface.co/{repository}, log in with `hf auth login`, and try again.",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise MissingError(f"{repository} has no revision {revision!r}.", hint="Leave --revision away.") from error
    except hub.RepositoryNotFoundError as error:
        raise MissingError(
            f"There is no {repository} on the hub, or it is private.",
            hint="Check the name; for a private one log in with `hf auth login`.",
        ) from error
    except hub.EntryNotFoundError as error:
        if isinstance(error, hub.LocalEntryNotFoundError):
            raise _unreachable(error) from error
        raise MissingError(
            f"{repository} has no file {file}.",
            hint=f"Leave FILE away, or look at https://huggingface.co/{repository}.",
        ) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(error) from error


def _no_id(repository: str) -> ConfigError:
    return ConfigError(f"{repository!r} is no hub id.", hint="A hub id is owner/name, as in the model page's address.")


def _unreachable(error: BaseException) -> MissingError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return MissingError(
        f"The hub can't be reached: {first}",
        hint="Check the connection, and that HF_HUB_OFFLINE isn't set; or download the file yourself and put it into models/.",
    )


def _only(repository: str, listed: list[str], allow_pickle: bool) -> str:
    """The repository's one weights file. Raises ConfigError where there are several: the user has to say which."""
    found = [name for name in listed if name.endswith(".safetensors")]
    if not found and allow_pickle:
        found = [name for name in listed if name.endswith(PICKLES)]
    if len(found) == 1:
        return found[0]
    pickles = [name for name in listed if name.endswith(PICKLES)]
    if not found and pickles:
        raise _refused(pickles[0])
    if not found:
        raise MissingError(f"{repository} holds no weights.", hint="Is it the right one?")
    shown = ", ".join(found[:_LIMIT_LISTED]) + (" …" if len(found) > _LIMIT_LISTED else "")
    raise ConfigError(f"{repository} has {len(found)} model files.", hint=f"Name one: {shown}.")


def _file(repository: str, file: str, folder: Path, revision: str | None, allow_pickle: bool) -> Fetched:
    from huggingface_hub import hf_hub_download

    name = PurePosixPath(file).name
    if not name.endswith(WEIGHTS):
        raise ConfigError(f"{file} is no weights file.", hint=f"Weights end in {', '.join(WEIGHTS)}.")
    if name.endswith(PICKLES) and not allow_pickle:
        raise _refused(file)
    target = folder / name
    if target.exists():
        raise ConfigError(f"{target} is there already.", hint="Move it away to fetch it again, or use it as it is.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tilehires-tmp-", dir=folder) as place:
        found = Path(hf_hub_download(repository, file, revision=revision, local_dir=place))
        found.replace(target)  # whole or not at all
    return Fetched(target, str(target))


def _folder(repository: str, listed: list[str], revision: str | None) -> Fetched:
    """All of a diffusers repository, of its weights those in safetensors and full width."""
    from huggingface_hub import snapshot_download

    parts = [name for name in listed if "/" in name and name.endswith(".safetensors")]
    if not parts:
        raise ConfigError(
            f"{repository} has its weights as pickles alone.", hint="Look for one with .safetensors files."
        )
    spare: list[Any] = [
        name for name in listed if re.search(r"\.(fp16|bf16|non_ema|ema)\.", name) and _plain(name) in listed
    ]
    spare += [
        name for name in listed if "/" not in name and name.endswith(".safetensors")
    ]  # the same once more, in one file
    path = snapshot_download(repository, revision=revision, allow_patterns=list(_FOLDER), ignore_patterns=spare)
    return Fetched(Path(path), repository)


def _plain(name: str) -> str:
    """The same file's name without its variant: unet/x.fp16.safetensors → unet/x.safetensors."""
    return re.sub(r"\.(fp16|bf16|non_ema|ema)\.", ".", name)


def _refused(file: str) -> ConfigError:
    return ConfigError(
        f"{file} is a pickle, which can carry code; it is not fetched.",
        hint="Look for it as .safetensors, or say --allow-pickle (tilehires still reads only the weights in it).",
    )
