"""The engine's thread: sleeps while there is nothing to do, else computes one step after the other."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ptune.engine.adapters.pending import PendingAdapters
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Logits
from ptune.engine.metrics import EngineMetrics

clock_s = time.monotonic
"""What deadlines are measured by."""


class Loop:
    """Steps through what the scheduler plans.

    step: computes chunks.
    changed: guards scheduler and arrivals; told whenever something about them changes.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        arrivals: PendingAdapters,
        changed: threading.Condition,
        pulse: EngineMetrics,
        step: Callable[[Sequence[Chunk]], Sequence[Logits]],
    ) -> None:
        self.steps = self.tokens = 0
        self._scheduler, self._arrivals, self._changed = scheduler, arrivals, changed
        self._pulse, self._step = pulse, step
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ptune-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancels what is left and ends the thread. May be called twice."""
        with self._changed:
            self._closing = True
            for row in self._rows():
                row.cancelled = True
            self._changed.notify_all()
        self._thread.join()

    def _rows(self) -> Iterator[TokenSequence]:
        yield from (*self._scheduler.running, *self._scheduler.waiting, *self._arrivals)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sleep()
                over = self._drop_over()
                chunks = self._scheduler.plan()
                closing = self._closing
                self._changed.notify_all()
            for row in over:
                row.give_up()
            if closing:
                return
            if chunks:
                self._compute(chunks)

    def _sleep(self) -> None:
        """While there is nothing to do. A row whose adapter is being read may come to its deadline meanwhile."""
        if not (self._closing or self._scheduler.busy or any(row.over for row in self._arrivals)):
            first_s = min((row.deadline_s for row in self._arrivals), default=math.inf)
            self._changed.wait(None if first_s == math.inf else max(0.0, first_s - clock_s()))

    def _drop_over(self) -> list[TokenSequence]:
        """Takes out the rows that were cancelled or are late."""
        now_s = clock_s()
        for row in self._rows():
            row.late = row.late or now_s >= row.deadline_s
        over = self._scheduler.drop_over()
        self._arrivals.left(over)
        return over + self._arrivals.drop_over()

    def _compute(self, chunks: list[Chunk]) -> None:
        """One step and what follows from it. What goes wrong ends the rows it concerns, never the engine."""
        self._pulse.began(chunks)
        try:
            with self._pulse.step(len(chunks)):
                begun_s = time.perf_counter()
                columns = self._step(chunks)
                took_s = time.perf_counter() - begun_s
        except Exception as error:
            with self._changed:
                told = self._scheduler.distrust()
            for row in {*(chunk.row for chunk in chunks), *told}:
                _fail(row, error)
        else:
            self.steps += 1
            self.tokens += sum(map(len, chunks))
            self._scheduler.computed(chunks, took_s)
            for chunk, logits in zip(chunks, columns, strict=True):
                try:
                    chunk.row.take(chunk, logits)
                except Exception as error:
                    _fail(chunk.row, error)
        with self._changed:
            done = [row for row in self._scheduler.running if row.finished]
            self._scheduler.release(done)
            self._arrivals.left(done)
            self._changed.notify_all()


def _fail(row: TokenSequence, error: Exception) -> None:
    """Ends a row; what a failed step may have left in its slot is found by nobody."""
    logging.getLogger(__name__).error("a step failed", exc_info=error)
    row.cached = 0
    row.end("error", f"the engine could not compute this: {error}")
