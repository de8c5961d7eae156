"""The engine of an encoder: items in, logits out.

A pass holds the rows of one adapter, or those of the bare base: so an item's numbers do not depend on who is in the queue with
it, to the bit. Side by side in one pass, adapters would: a product adds in an order that follows from its width, which would be
the sum of their ranks, and each row would pay for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

import numpy as np

from ptune.engine.adapters.lora import factor_bytes, load_adapter
from ptune.engine.adapters.stacked import Stack, stack_of
from ptune.engine.base import EngineBase, QueueStats
from ptune.engine.encoder.batch import TOKENS_A_THREAD, Item, choose, least_tokens, most_rows, padded
from ptune.engine.encoder.golden import replay
from ptune.engine.encoder.session import Body, HeadSession
from ptune.engine.job import BEFORE_COMPUTED, deadline_passed, not_computed, queue_full
from ptune.engine.onnx_graph import Array, available_cores
from ptune.engine.options import BatchKeywords, BatchOptions
from ptune.errors import FormatError, PtuneError, RequestError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle

HEAD = "head.onnx"
NO_FACTORS = "adapter_config.json"  # an adapter's folder without it holds a head alone


@dataclass(frozen=True, slots=True)
class EncoderStats(QueueStats):
    """The engine at one moment, in items; the last three count from its start."""

    passes: int
    rows: int
    tokens: int  # without padding; an image counts as one


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded adapter: its record, its factors and its head."""

    record: AdapterRecord
    factors: Stack | None  # None = it is a head alone, on the bare base
    head: HeadSession


@dataclass(eq=False)
class _Job:
    """An item on its way, a `ptune.engine.job.Job`. Whoever holds the future may cancel it until its pass begins."""

    item: Item
    deadline_s: float  # on the engine's clock
    done: Future[Array] = field(default_factory=Future)
    adapter: Served | None = None  # None = the bare body; dropping the adapter later does not matter
    expired: bool = False

    @property
    def factors(self) -> Stack | None:
        return None if self.adapter is None else self.adapter.factors

    @property
    def ended(self) -> bool:
        return self.expired or self.done.cancelled()

    def cancel(self) -> None:
        self.done.cancel()

    def give_up(self) -> None:
        if (
            self.done.set_running_or_notify_cancel()
        ):  # else it was cancelled, and this tells those who wait for it
            self.done.set_exception(deadline_passed(self.item.deadline_s, BEFORE_COMPUTED))

    def shut_down(self) -> None:
        self.give_up()

    def fail(self, error: PtuneError) -> None:
        if self.done.done() and not self.done.cancelled():
            return
        if self.done.running() or self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class EncoderEngine(EngineBase[BatchOptions, _Job, Served, list[_Job]]):
    """Serves one bundle's encoder under all its adapters. Its methods may be called from any thread."""

    def __init__(self, bundle: Bundle, body: Body, options: BatchOptions = BatchOptions()) -> None:
        self.signature = bundle.encoder
        super().__init__(bundle, options, self._load, _bytes, base_answers=False)
        self.context = self.signature.context  # longest text, in tokens; 0 of images
        self._body = body
        self._threads = options.threads or available_cores()
        self._most_rows = most_rows(self.signature, options.max_rows, self._threads)  # under an adapter
        self._waiting: deque[_Job] = deque()
        self._running = self._passes = self._rows = self._tokens = 0
        self._start()

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        options: BatchOptions = BatchOptions(),
        *,
        replay_golden: bool = True,
        **keywords: Unpack[BatchKeywords],
    ) -> EncoderEngine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporter's.

        keywords: options that replace those of `options`.

        Raises: FormatError, AdapterError, UsageError; ParityError where the numbers differ.
        """
        return cls._opened(bundle, replace(options, **keywords), replay_golden=replay_golden)

    @classmethod
    def _build(cls, bundle: Bundle, graph: Path, options: BatchOptions) -> EncoderEngine:
        return cls(bundle, Body(graph, bundle.encoder, options.threads), options)

    def _replay(self, bundle: Bundle, profile: str) -> float:
        return replay(self, bundle, profile)

    def record(self, name: str) -> AdapterRecord:
        """Returns an adapter's record. Raises: RequestError, 404, where there is no such adapter."""
        record = self._registry.record(name)
        if record is None:
            known = ", ".join(self.adapters) or "there is none yet"
            raise RequestError(f"{BASE!r} has no head: name an adapter: {known}", param="model")
        return record

    def submit(self, item: Item) -> Future[Array]:
        """Queues an item. Its future gives logits [labels], or [seq, labels] for an adapter that labels tokens.

        Under `base` it gives the body's hidden states. A future that is cancelled before its pass costs nothing.
        Raises: RequestError: 400 where it cannot be encoded, 404 for an unknown adapter, 429 where the queue is full,
        503 while the engine drains.
        """
        with self._changed:
            job = self._job(item)
            waiting = len(self._waiting) + len(self._pending)
            if waiting >= self._options.max_waiting:
                raise queue_full(waiting)
            self._enqueue(job, item.adapter, item.length)
        return job.done

    def logits(self, items: Sequence[Item]) -> list[Array]:
        """Computes many items in one queue without a bound. Raises: RequestError, as `submit`, but 429; PtuneError."""
        with self._changed:
            jobs = [self._job(item) for item in items]
            for job in jobs:
                self._enqueue(job, job.item.adapter, job.item.length)
        return [job.done.result() for job in jobs]

    def stats(self) -> EncoderStats:
        with self._changed:
            waiting = len(self._waiting) + len(self._pending)
            return EncoderStats(self._running, waiting, self._passes, self._rows, self._tokens)

    def _job(self, item: Item) -> _Job:
        """Makes a job for an item that can be encoded."""
        self._require_open()
        self._registry.record(item.adapter)
        if self.signature.modality == "text":
            if not item.length:
                raise RequestError("a text is one or more tokens", param="input")
            if item.length > self.context:
                raise RequestError(
                    f"the text has {item.length} tokens; the encoder takes {self.context}",
                    param="input",
                    code="context_length_exceeded",
                )
        return _Job(item, self._deadline(item.deadline_s))

    def _load(self, folder: Path, record: AdapterRecord) -> Served:
        alone = not (folder / NO_FACTORS).is_file()
        factors = None if alone else stack_of([load_adapter(folder, self.signature)], self.signature)
        return Served(record, factors, HeadSession(folder / HEAD, self.signature))

    def _admit(self, job: _Job, adapter: Served | None) -> None:
        job.adapter = adapter
        self._waiting.append(job)

    def _jobs(self) -> Sequence[_Job]:
        return self._waiting

    def _take_ended(self) -> list[_Job]:
        ended = {job for job in self._waiting if job.ended}  # once: another thread may cancel meanwhile
        if ended:
            self._waiting = deque(job for job in self._waiting if job not in ended)
        return list(ended)

    def _free(self) -> None:
        vars(self).pop("_body", None)  # nothing computes any more

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._running)

    def _next_batch(self) -> list[_Job]:
        """Takes the next pass's jobs out of the queue, without those that were cancelled this moment.

        They share the factors of the oldest.
        """
        if not self._waiting:
            return []
        waiting = list(enumerate(self._waiting))
        factors = self._waiting[0].factors
        alike = [(index, job) for index, job in waiting if job.factors is factors]
        lengths = [job.item.length for _, job in alike]
        most = self._options.max_rows if factors is None else self._most_rows
        chosen = {alike[at][0] for at in choose(lengths, most, TOKENS_A_THREAD * self._threads)}
        self._waiting = deque(job for index, job in waiting if index not in chosen)
        picked = [job for index, job in waiting if index in chosen]
        live = [job for job in picked if job.done.set_running_or_notify_cancel()]
        self._release(job for job in picked if job not in live)
        self._running = len(live)
        return live

    def _compute(self, batch: list[_Job]) -> None:
        self.metrics.on_first_step(batch)
        self._answer(batch)
        with self._changed:
            self._running = 0
            self._passes += 1
            self._rows += len(batch)
            self._tokens += sum(job.item.length for job in batch)
            self._release(batch)

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Computes jobs together; where that fails, falls back to one at a time, so that one bad item fails alone."""
        try:
            for job, logits in zip(jobs, self._logits(jobs), strict=True):
                if np.isfinite(logits).all():
                    job.done.set_result(logits)
                else:
                    job.fail(not_computed(PtuneError("the model's output is not a number")))
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0].fail(not_computed(error))

    def _logits(self, jobs: Sequence[_Job]) -> list[Array]:
        """Runs the body once, under the factors that all have, then each head on its own rows.

        A head sees no padding, which may move its sums: texts of one length at a time.
        """
        factors = jobs[0].factors
        least = least_tokens(factors.rank if factors else 0, self._threads)
        inputs = padded([job.item for job in jobs], self.signature, least)
        with self.metrics.step(len(jobs)):
            hidden = self._body.hidden(inputs, factors)
        rows: dict[tuple[Served | None, int], list[int]] = {}
        for row, job in enumerate(jobs):
            rows.setdefault((job.adapter, job.item.length), []).append(row)
        logits: dict[int, Array] = {}
        for (adapter, length), own in rows.items():
            lengths = inputs["lengths"][own] if self.signature.modality == "text" else None
            states = hidden[own] if lengths is None else hidden[own, :length]
            logits |= zip(own, states if adapter is None else adapter.head.run(states, lengths), strict=True)
        return [logits[row] for row in range(len(jobs))]


def _bytes(folder: Path, record: AdapterRecord) -> int:
    """Memory of an adapter, approximately: its factors, and its head as stored on disk."""
    if not (folder / HEAD).is_file():
        raise FormatError(f"{folder / HEAD} is missing")
    factors = factor_bytes(folder) if (folder / NO_FACTORS).is_file() else 0
    return factors + (folder / HEAD).stat().st_size
