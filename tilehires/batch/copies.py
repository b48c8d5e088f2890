"""review/flagged/ of an output folder: copies of what is flagged, so that it can be looked at in one place."""

from __future__ import annotations

import shutil

from tilehires.batch.workspace import Workspace
from tilehires.errors import ImageError
from tilehires.files import raise_if_hopeless
from tilehires.records import Record

FOLDER = "review/flagged"


def keep_copy(record: Record, name: str, workspace: Workspace) -> str:
    """Make output `name` have a copy there if its record is flagged, and none if not.

    A file there that tilehires didn't make stays as it is; then the result says so, else it is empty.
    """
    copy = f"{FOLDER}/{name}"
    try:
        if not (record.flagged and record.output):
            workspace.remove(copy)
        elif not workspace.holds(copy, record.output.sha256):
            staged = workspace.staging / "copy"
            try:
                shutil.copyfile(workspace.file(record.output.path), staged)
                workspace.publish(staged, copy)
            finally:
                staged.unlink(missing_ok=True)
    except ImageError as error:
        return f"{error.message} It stays as it is."
    except OSError as error:
        raise_if_hopeless(error, workspace.output / copy)
        return f"{workspace.shown(workspace.output / copy)} can't be brought up to date: {error.strerror}."
    return ""
