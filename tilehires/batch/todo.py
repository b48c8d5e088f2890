"""The images that a cluster's driver has still to hand out: to whoever is free, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tilehires.batch.maker import Task
from tilehires.errors import RunError


class Todo:
    """Each worker has one image in view, so that it can read it ahead; another that is free before it gets it all the same."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._again: deque[Task] = deque()
        self._views: dict[str, Task] = {}
        self._stop: RunError | None = None
        self.over = False
        """Nothing is left, unless something has to be made again."""

    def next(self, worker: str) -> Task | None:
        """An image for the worker of that name; None where nothing is left. Raises the RunError that `tasks` raises."""
        if self._stop:
            raise self._stop
        task = self._again.popleft() if self._again else self._views.pop(worker, None) or next(self._tasks, None)
        if task is None and self._views:
            task = self._views.pop(next(iter(self._views)))
        self.over = task is None
        return task

    def view(self, worker: str) -> Task | None:
        """What that worker will most likely get next."""
        if worker not in self._views and self._stop is None:
            try:
                task = next(self._tasks, None)
            except RunError as error:
                self._stop = error  # heard by who asks for an image
                return None
            if task:
                self._views[worker] = task
        return self._views.get(worker)

    def again(self, task: Task) -> None:
        """Hand it out once more, before all others."""
        self._again.append(task)
        self.over = False
