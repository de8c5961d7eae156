"""An engine's metrics for operators: the time of its steps, the wait of its requests, and steps that hang or fail.

No exporter's types here: `ptune_serve` turns them into Prometheus' metrics and the answer of /health.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

BATCH_SIZE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FAILURES = 3
"""Consecutive failed steps that mean that the engine is broken, and not the requests."""


class Histogram:
    """A histogram: for each bound the number of values up to it, and the sum of all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*map(float, bounds), float("inf"))
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> list[tuple[float, int]]:
        """Returns (bound, number of values up to it), up to infinity."""
        buckets, total = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


class EngineMetrics:
    """Written by the engine, read from any thread. Times are in seconds."""

    def __init__(self) -> None:
        self.batch_size = Histogram(BATCH_SIZE)  # jobs of a step
        self.step_s, self.queue_s = Histogram(STEP_S), Histogram(QUEUE_S)
        self.prompt_tokens = 0  # of the requests that have had their first step
        self.failed = 0  # steps
        self.stopped: str | None = None  # why the engine answers nothing more
        self._failed_in_a_row = 0
        self._step_started_s: float | None = None
        self._submitted: weakref.WeakKeyDictionary[object, tuple[float, int]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def on_submit(self, job: object, prompt_tokens: int) -> None:
        """Records that a job was submitted just now."""
        with self._lock:
            self._submitted[job] = time.monotonic(), prompt_tokens

    def on_first_step(self, jobs: Iterable[object]) -> None:
        """Records the wait of those jobs of a step for which it is the first."""
        now_s = time.monotonic()
        with self._lock:
            for job in jobs:
                submitted_s, prompt_tokens = self._submitted.pop(job, (None, 0))
                if submitted_s is not None:
                    self.queue_s.add(now_s - submitted_s)
                    self.prompt_tokens += prompt_tokens

    @contextmanager
    def step(self, batch_size: int) -> Iterator[None]:
        """Measures the step inside the block."""
        started_s = self._step_started_s = time.monotonic()
        try:
            yield
        except BaseException:
            self.failed += 1
            self._failed_in_a_row += 1
            raise
        else:
            self._failed_in_a_row = 0
        finally:
            self._step_started_s = None
            self.batch_size.add(batch_size)
            self.step_s.add(time.monotonic() - started_s)

    @property
    def running_s(self) -> float:
        """Age of the step that is being computed now; 0 where there is none."""
        started_s = self._step_started_s
        return 0.0 if started_s is None else time.monotonic() - started_s

    @property
    def broken(self) -> bool:
        """Whether all of the last steps failed."""
        return self._failed_in_a_row >= FAILURES
