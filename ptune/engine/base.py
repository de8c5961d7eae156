"""What all engines do alike: open a bundle, keep its adapters, queue jobs, run a thread over them, drain and close.

Three kinds build on it: `ptune.engine.decoder`, `ptune.engine.encoder` and `ptune.engine.seq2seq`. Each decides which jobs share
a step, and computes it; its queues and batches differ too much to be shared.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from ptune.engine.adapters.pending import PendingAdapters
from ptune.engine.adapters.registry import AdapterStats, Combine, Load, Registry, Size
from ptune.engine.job import Job, shutting_down, stopped
from ptune.engine.memory import check_fits
from ptune.engine.metrics import EngineMetrics
from ptune.engine.options import BatchOptions
from ptune.errors import PtuneError
from ptune.formats.bundle import AdapterRecord, Bundle
from ptune.formats.checked_meanwhile import checked_meanwhile

clock_s = time.monotonic
"""Clock of deadlines."""

STALL_S = 0.005
"""After so long an engine looks again whether its jobs can go on, where nothing woke it."""

LONGEST_WAIT_S = 3600.0
"""For a deadline in centuries, too: the system refuses to wait that long at once, and the engine's thread would end by it."""

J = TypeVar("J", bound=Job[Any])
Served = TypeVar("Served")
Batch = TypeVar("Batch", bound=Sequence[Any])
Options = TypeVar("Options", bound=BatchOptions)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Jobs in an engine at one moment."""

    running: int
    waiting: int


class EngineBase(ABC, Generic[Options, J, Served, Batch]):
    """An engine of jobs J under adapters, each loaded as Served. Its public methods may be called from any thread.

    The engine's thread works in turns. In each it takes out the jobs that were cancelled or have expired, then asks the
    subclass for the next batch and has it computed. `_changed` guards everything that other threads touch.

    A defect that ends this thread, or the one that reads adapters, ends every job with an error and refuses further ones;
    `metrics.stopped` then says so, and the process has to be started again.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: Options,
        load: Load[Served],
        size: Size,
        *,
        base_answers: bool,
        combine: Combine[Served] | None = None,
    ) -> None:
        """load, size, base_answers, combine: as `Registry` takes them. The subclass calls `_start` when it is complete."""
        self.metrics = EngineMetrics()
        self._options = options
        self._open, self._closing = True, False
        self._changed = threading.Condition()
        self._registry = Registry(
            bundle,
            load,
            size,
            self._changed,
            base_answers=base_answers,
            limit_bytes=options.adapter_bytes,
            combine=combine,
            guarded=self._guarded,
        )
        self._pending: PendingAdapters[J, Served] = PendingAdapters(
            self._registry, self._changed, self._admit
        )
        self._tidy: Callable[[], bool] | None = (
            None  # some milliseconds of what waits until nothing else is to do; False: done
        )
        self._stalled = False  # whether all running jobs wait for what other threads compute
        self._accepted: weakref.WeakSet[J] = weakref.WeakSet()  # all jobs that somebody may wait for
        self._defect: BaseException | None = None  # what has ended a thread
        self._thread = threading.Thread(
            target=self._guarded, args=(self._run,), name=f"ptune-{type(self).__name__}", daemon=True
        )

    def _start(self) -> None:
        self._thread.start()
        atexit.register(self.close)  # or the interpreter would free the graph during a step

    @classmethod
    def _opened(cls, bundle: Bundle | str | Path, options: Options, *, replay_golden: bool) -> Self:
        """Opens a bundle: checks the options and the files, loads the adapters, replays the golden vectors.

        Raises: FormatError, AdapterError, UsageError; ParityError where this machine's numbers differ from the exporter's.
        """
        options.check()
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        profile = options.profile or bundle.manifest.default_profile
        graph = bundle.graph_path(profile)
        check_fits(bundle, profile)
        with checked_meanwhile(bundle, bundle.manifest.graphs[profile].files) as checked:
            engine = cls._build(bundle, graph, options)
            try:
                checked.result()
                engine._registry.load_all()
                if replay_golden:
                    bundle.check_files(bundle.manifest.golden)
                    engine._replay(bundle, profile)
            except BaseException:
                engine.close()
                raise
        return engine

    @classmethod
    @abstractmethod
    def _build(cls, bundle: Bundle, graph: Path, options: Options) -> Self:
        """Loads the graph and makes an engine without adapters."""

    @abstractmethod
    def _replay(self, bundle: Bundle, profile: str) -> float:
        """Replays the golden vectors. Raises: ParityError."""

    @abstractmethod
    def _admit(self, job: J, adapter: Served | None) -> None:
        """Puts a job into the queue with its adapter, None for the base. Called under the lock."""

    @abstractmethod
    def _jobs(self) -> Iterable[J]:
        """All jobs in the queue or in the batch. Called under the lock."""

    @abstractmethod
    def _take_ended(self) -> list[J]:
        """Removes the jobs that have ended from the queue and the batch, and returns them. Called under the lock."""

    @abstractmethod
    def _next_batch(self) -> Batch:
        """Chooses what to compute now; empty where there is nothing. Called under the lock."""

    @abstractmethod
    def _compute(self, batch: Batch) -> None:
        """Computes a batch and ends or continues its jobs. A failure ends the jobs concerned, never the engine."""

    @abstractmethod
    def _free(self) -> None:
        """Frees the graph and its memory, which would otherwise wait for Python's collector. May be called twice."""

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether there are jobs in the queue or in the batch. Called under the lock."""

    @property
    def bundle(self) -> Bundle:
        """The bundle as of the last `load_adapter` or `refresh`."""
        return self._registry.bundle

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, in memory or not; the base is always served and not among them."""
        return self._registry.names

    @property
    def in_memory(self) -> list[str]:
        """Names of the adapters that are in memory."""
        return self._registry.in_memory

    def record(self, name: str) -> AdapterRecord | None:
        """Returns an adapter's record; None for the base. Raises: RequestError, 404, where there is no such adapter."""
        return self._registry.record(name)

    def adapter_stats(self) -> AdapterStats:
        return self._registry.stats()

    def refresh(self) -> None:
        """Reads the bundle's manifest again. Raises: FormatError."""
        self._registry.refresh()

    def load_adapter(self, name: str) -> None:
        """Loads an adapter of the bundle, also one that was added to it since; a loaded one is replaced.

        Raises: FormatError where the bundle has none or its files are damaged; AdapterError where it does not fit.
        """
        self._registry.load(name)

    def drop_adapter(self, name: str) -> None:
        """Refuses further requests for an adapter; those in the engine finish. Raises: RequestError, 404."""
        self._registry.drop(name)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Refuses further requests and waits for those in the engine. Returns whether all have finished."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(
                lambda: self._defect is not None or not (self._busy or self._pending), timeout_s
            )

    def close(self) -> None:
        """Refuses further requests, cancels those in the engine, ends the thread and frees the graph. May be called twice."""
        with self._changed:
            self._open, self._closing = False, True
            self._changed.notify_all()
        self._thread.join()
        self._registry.close()
        self._free()
        atexit.unregister(self.close)

    def _require_open(self) -> None:
        """Raises: RequestError, 503, where the engine drains, is closed, or has stopped by a defect."""
        if self._defect is not None:
            raise stopped()
        if not self._open:
            raise shutting_down()

    def _enqueue(self, job: J, adapter: str, prompt_tokens: int) -> None:
        """Queues a job of a known adapter, as soon as that is in memory. Called under the lock."""
        self._accepted.add(job)
        self.metrics.on_submit(job, prompt_tokens)
        self._pending.add(job, adapter)

    def _release(self, jobs: Iterable[J]) -> None:
        """Gives back the adapters of jobs that leave the engine."""
        with self._changed:
            for job in jobs:
                if job.adapter is not None:
                    self._registry.give_back(job.adapter)
            self._changed.notify_all()

    def _wake(self) -> None:
        """Makes the thread look at its jobs again."""
        with self._changed:
            self._changed.notify_all()

    def _guarded(self, run: Callable[[], None]) -> None:
        """Runs a thread of the engine. An exception out of it is a defect, after which nobody may wait for what does not come."""
        try:
            run()
        except BaseException as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Ends all jobs with an error, wherever they are: a thread that ended on the way may hold some in its frames alone,
        which `error` keeps."""
        logging.getLogger(__name__).critical(
            "a thread of the engine has ended: it answers nothing more until it is started again",
            exc_info=error,
        )
        with self._changed:
            self._defect, self._open = error, False
            self.metrics.stopped = f"a thread of the engine has ended by {type(error).__name__}"
            left = list(self._accepted)
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()  # jobs are ended by one thread at a time
        failure = PtuneError(f"the engine has stopped: {type(error).__name__}: {error}")
        for job in left:
            job.fail(failure)
            job.expired = True
        with self._changed:
            self._pending.take_ended()  # or an adapter that arrives would put its jobs into the queue
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread: turn after turn until the engine is closed, or has stopped."""
        while True:
            with self._changed:
                self._sleep()
                if self._defect is not None:
                    return
                closing = self._closing
                ended = self._drop_ended()
                batch = None if closing else self._next_batch()
                self._changed.notify_all()
            for job in ended:
                if closing:
                    job.shut_down()
                else:
                    job.give_up()
            if closing:
                return
            if batch:
                self._compute(batch)
            elif self._tidy is not None and not self._tidy():
                self._tidy = None

    def _sleep(self) -> None:
        """Waits while there is nothing to do. A job whose adapter is being read may expire meanwhile."""
        if self._tidy is not None:
            return
        stopping = self._closing or self._defect is not None
        if self._stalled and not stopping:
            self._changed.wait(STALL_S)
        elif not (stopping or self._busy or any(job.ended for job in self._pending)):
            first_s = min((job.deadline_s for job in self._pending), default=math.inf)
            wait_s = min(max(0.0, first_s - clock_s()), LONGEST_WAIT_S)
            self._changed.wait(None if first_s == math.inf else wait_s)

    def _drop_ended(self) -> list[J]:
        """Takes out the jobs that were cancelled or have expired; all of them when the engine closes."""
        now_s = clock_s()
        for job in self._everywhere():
            job.expired = job.expired or now_s >= job.deadline_s
        if self._closing:
            for job in self._everywhere():
                job.cancel()
        ended = self._take_ended()
        if ended:
            self._release(ended)
        return ended + self._pending.take_ended()

    def _everywhere(self) -> Iterator[J]:
        yield from self._jobs()
        yield from self._pending

    @staticmethod
    def _deadline(limit_s: float | None) -> float:
        """Turns a request's limit into a time on the engine's clock."""
        return math.inf if limit_s is None else clock_s() + limit_s
