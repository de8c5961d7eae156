"""How an engine is doing: what its steps take, how long its rows have waited, whether a step hangs or fails. For operators.

No exporter's types here: `ptune_serve` turns this into Prometheus' metrics and into what /health answers.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.engine.decoder.sequence import Chunk, TokenSequence

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUEUE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FAILURES = 3
"""So many steps that failed in a row mean that the engine is broken and not the requests."""


class Histogram:
    """A histogram: how many values were at most each bound, and their sum."""

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
        """(bound, how many were at most that), up to infinity."""
        found, total = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class EngineMetrics:
    """Fed by the engine, read from any thread. Times are in seconds."""

    def __init__(self) -> None:
        self.rows, self.step_s, self.queue_s = Histogram(ROWS), Histogram(STEP_S), Histogram(QUEUE_S)
        self.asked_tokens = 0  # of prompts that were looked for in the cache
        self.failed = 0  # steps
        self._failed_in_a_row = 0
        self._began_s: float | None = None
        self._came_s: weakref.WeakKeyDictionary[TokenSequence, float] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def came(self, rows: Sequence[TokenSequence]) -> None:
        """Rows were submitted just now."""
        now_s = time.monotonic()
        with self._lock:
            for row in rows:
                self._came_s[row] = now_s

    def began(self, chunks: Sequence[Chunk]) -> None:
        """Notes what the rows have waited that are in a step for the first time."""
        now_s = time.monotonic()
        with self._lock:
            for chunk in chunks:
                came_s = self._came_s.pop(chunk.row, None)
                if came_s is not None:
                    self.queue_s.add(now_s - came_s)
                    self.asked_tokens += len(chunk.row.tokens)

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """Around a step of so many rows."""
        began_s = self._began_s = time.monotonic()
        try:
            yield
        except BaseException:
            self.failed += 1
            self._failed_in_a_row += 1
            raise
        else:
            self._failed_in_a_row = 0
        finally:
            self._began_s = None
            self.rows.add(rows)
            self.step_s.add(time.monotonic() - began_s)

    @property
    def running_s(self) -> float:
        """How long the step has gone on that is being computed now; 0 where there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    @property
    def broken(self) -> bool:
        """Whether nothing but failures has come of the last steps."""
        return self._failed_in_a_row >= FAILURES
