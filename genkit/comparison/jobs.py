"""Jobs of a comparison for a number of workers: which one a free worker takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Job(Future[T], Generic[T]):
    """A function to call once other jobs are done, and its result or exception."""

    def __init__(self, function: Callable[[], T], after: Iterable[Future[Any]]) -> None:
        super().__init__()
        self.function = function
        self.after = list(after)

    @property
    def ready(self) -> bool:
        """Whether all that it waits for is done."""
        return all(each.done() for each in self.after)

    def run(self) -> None:
        """Call the function, unless the job was cancelled."""
        if self.set_running_or_notify_cancel():
            try:
                self.set_result(self.function())
            except BaseException as error:
                self.set_exception(error)


class Jobs:
    """Workers, and the jobs that wait for them; those that wait at its end are cancelled.

    A free worker scores what is trained before it trains the next, so that an interrupted
    comparison has scores. But when fewer trainings are left than there are workers, they go first:
    a training that begins last would end last, with the other workers idle meanwhile.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._trainings: list[Job[Any]] = []
        self._others: list[Job[Any]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the jobs that wait, and wait for those that run."""
        with self._changed:
            self._closed = True
            for job in (*self._trainings, *self._others):
                job.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def train(self, function: Callable[[], T]) -> Job[T]:
        """Add a training. Those added first are begun first."""
        return self._add(Job(function, ()), self._trainings)

    def add(self, function: Callable[[], T], *after: Future[Any]) -> Job[T]:
        """Add another job, to run when those that it comes after are done, well or not."""
        return self._add(Job(function, after), self._others)

    def _add(self, job: Job[T], to: list[Job[Any]]) -> Job[T]:
        with self._changed:
            to.append(job)
            self._changed.notify_all()
        return job

    def _next(self) -> Job[Any] | None:
        """The job to run now, which is taken out; None if there is none yet."""
        ready = [job for job in self._others if job.ready]
        if self._trainings and (len(self._trainings) < self.workers or not ready):
            return self._trainings.pop(0)
        if ready:
            self._others.remove(ready[0])
            return ready[0]
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (job := self._next()):
                    if self._closed:
                        return
                    self._changed.wait()
            job.run()
            with self._changed:
                self._changed.notify_all()
