"""Progress as the work sees it: a protocol and a null implementation. The bars live in cli/."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a stage may say while it works. Calls are cheap and may come from any stage at any time."""

    def begin(self, what: str, total: int) -> None:
        """A piece of work of `total` steps starts, for instance ("hires: sampling", 20)."""
        ...

    def advance(self, steps: int = 1) -> None:
        """That many more steps of the current piece are done. May raise Interrupted to stop the work."""
        ...

    def note(self, message: str) -> None:
        """Something the user should read: one line, no newline."""
        ...


class Silent:
    """Says nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class Counted:
    """Passes everything on, and counts the steps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.steps = 0

    def begin(self, what: str, total: int) -> None:
        self._progress.begin(what, total)

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        self._progress.advance(steps)

    def note(self, message: str) -> None:
        self._progress.note(message)


class BatchProgress(Progress, Protocol):
    """Progress of a whole batch: which image is at work, beside what its stages say."""

    def begin_batch(self, images: int) -> None: ...

    def begin_image(self, name: str) -> None: ...

    def end_image(self, name: str, status: str) -> None:
        """`status`: "done", "cached" or "failed". The next image may have begun before this one's end."""
        ...

    def end_batch(self) -> None: ...


class SilentBatch(Silent):
    """Says nothing, for a whole batch."""

    def begin_batch(self, images: int) -> None:
        pass

    def begin_image(self, name: str) -> None:
        pass

    def end_image(self, name: str, status: str) -> None:
        pass

    def end_batch(self) -> None:
        pass
