"""The one error fence of the package, around one image: whatever goes wrong inside costs that image alone."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tilehires.errors import RunError, TilehiresError
from tilehires.records import ErrorRecord

Result = TypeVar("Result")


def fenced(work: Callable[[], Result], log: Callable[[str], None], logs: Path) -> Result | ErrorRecord:
    """What `work` gives, or why it failed. A traceback goes to `log`, which writes into the folder `logs`.

    Raises RunError where no later image would fare better.
    """
    try:
        return work()
    except RunError:
        raise
    except TilehiresError as error:
        return ErrorRecord(type(error).__name__, error.message, error.hint)
    except Exception as error:  # the one fence: a bug or a broken library costs one image, not the night
        log(traceback.format_exc())
        hint = f"This is a bug in tilehires or a library; the traceback is in {logs}."
        return ErrorRecord(type(error).__name__, f"{type(error).__name__}: {error}.", hint)
