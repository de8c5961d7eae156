"""Jobs whose adapter is still being read from disk. They wait beside the queue, so that nobody else waits for the read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar

from ptune.engine.adapters.registry import Registry, Served
from ptune.errors import PtuneError
from ptune.formats.bundle import BASE


class Waiting(Protocol):
    """The part of a job that matters here."""

    @property
    def ended(self) -> bool: ...

    def fail(self, error: PtuneError) -> None: ...


Job = TypeVar("Job", bound=Waiting)


class PendingAdapters(Generic[Job, Served]):
    """Jobs in order of arrival, until their adapters are in memory. Every method needs the engine's lock.

    changed: the engine's lock.
    ready: puts a job into the engine's queue, with its adapter (None for the base).
    """

    def __init__(
        self,
        registry: Registry[Served],
        changed: threading.Condition,
        ready: Callable[[Job, Served | None], None],
    ) -> None:
        self._registry, self._changed, self._ready = registry, changed, ready
        self._jobs: dict[Job, None] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job, adapter: str) -> None:
        """Passes a job on as soon as its adapter is in memory: at once where it is.

        Raises: RequestError, 404, where there is no adapter of that name.
        """
        if adapter == BASE:
            self._ready(job, None)
        else:
            self._jobs[job] = None
            self._registry.take(adapter, partial(self._arrived, job))
        self._changed.notify_all()

    def take_ended(self) -> list[Job]:
        """Removes the jobs that have ended meanwhile, and returns them."""
        ended = [job for job in self._jobs if job.ended]
        for job in ended:
            del self._jobs[job]
        return ended

    def _arrived(self, job: Job, adapter: Served | PtuneError) -> None:
        """Receives a job's adapter, or the error that kept it from being read."""
        waits = job in self._jobs
        self._jobs.pop(job, None)
        if isinstance(adapter, PtuneError):
            if waits:
                job.fail(adapter)
        elif waits:
            self._ready(job, adapter)
        else:  # the job ended meanwhile
            self._registry.give_back(adapter)
        self._changed.notify_all()
