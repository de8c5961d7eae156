"""The engine of an encoder: items in, logits out. One thread; adapters and tasks are mixed in every pass."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptune.engine.adapters.lora import Adapter, factor_bytes, load_adapter
from ptune.engine.adapters.registry import Registry, queue_full, shutting_down
from ptune.engine.adapters.stacked import Stacks
from ptune.engine.base import EngineBase, check_counts
from ptune.engine.encoder.batch import Array, Item, choose, padded
from ptune.engine.encoder.golden import replay
from ptune.engine.encoder.session import BodySession, HeadSession
from ptune.engine.metrics import EngineMetrics
from ptune.errors import FormatError, PtuneError, RequestError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle

HEAD = "head.onnx"
NO_FACTORS = "adapter_config.json"  # where an adapter's folder has none, it is a head alone


@dataclass(frozen=True, slots=True)
class EncoderStats:
    """The engine at one moment; the last three count from its start."""

    running: int
    waiting: int
    passes: int
    rows: int
    tokens: int  # padding not counted; of images one each


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded adapter: its record, its factors and its head."""

    record: AdapterRecord
    factors: Adapter
    head: HeadSession


@dataclass(eq=False)
class _Job:
    item: Item
    done: Future[Array]
    served: Served | None = None  # None = the bare body; once taken, a drop of the adapter is no matter


class EncoderEngine(EngineBase):
    """Serves one bundle's encoder under all its adapters. All methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        session: BodySession,
        *,
        max_batch: int = 32,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
    ) -> None:
        self.signature = bundle.encoder
        self.context = self.signature.context  # longest text, in tokens; 0 of images
        self.pulse = EngineMetrics()
        self._session = session
        self._stacks = Stacks(self.signature)
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._waiting: deque[_Job] = deque()
        self._arriving: dict[_Job, None] = {}  # their adapters are being read
        self._running = self._passes = self._rows = self._tokens = 0
        self._open = True  # takes items
        self._closing = False
        self._changed = threading.Condition()  # guards everything above
        self._registry = Registry(
            bundle, self._served_from, _bytes, self._changed, base_answers=False, limit_bytes=adapter_bytes
        )
        self._thread = threading.Thread(target=self._run, name="ptune-encoder", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # or the interpreter would take the graph away under a running pass

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        *,
        profile: str | None = None,
        threads: int | None = None,
        max_batch: int = 32,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
        replay_golden: bool = True,
    ) -> EncoderEngine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporting one's.

        profile: which graph; default: the bundle's own choice.
        threads: of a pass; default: the cores that this process may use.
        max_batch: rows of a pass at most.
        max_waiting: items that wait at most.
        adapter_bytes: memory for adapters; beyond it, those that were used least recently are read again when asked for.

        Raises: FormatError, AdapterError, UsageError; ParityError where this machine computes otherwise.
        """
        check_counts(max_batch=max_batch, max_waiting=max_waiting, threads=threads or 1)
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = bundle.manifest
        profile = profile or manifest.default_profile
        graph = bundle.graph_path(profile)
        bundle.check_files(manifest.graphs[profile].files)
        session = BodySession(graph, bundle.encoder, threads)
        engine = cls(
            bundle, session, max_batch=max_batch, max_waiting=max_waiting, adapter_bytes=adapter_bytes
        )
        try:
            engine._registry.load_all()
            if replay_golden:
                bundle.check_files(manifest.golden)
                replay(engine, bundle, profile)
        except BaseException:
            engine.close()
            raise
        return engine

    def record(self, name: str) -> AdapterRecord:
        """What an adapter says of itself. Raises: RequestError, 404, where there is none of that name."""
        record = self._registry.record(name)
        if record is None:
            known = ", ".join(self.adapters) or "there is none yet"
            raise RequestError(f"{BASE!r} has no head: name an adapter: {known}", param="model")
        return record

    def submit(self, item: Item) -> Future[Array]:
        """Queues an item. Its future gives logits [labels], or [seq, labels] where each token gets some.

        Under `base` it gives the body's hidden states. A future that is cancelled before its pass costs nothing.
        Raises: RequestError: 400 for what cannot be encoded, 404 for an unknown adapter, 429 where the queue is full,
        503 while the engine drains.
        """
        with self._changed:
            job = self._job(item)
            waiting = len(self._waiting) + len(self._arriving)
            if waiting >= self._max_waiting:
                raise queue_full(waiting)
            self._enqueue([job])
        return job.done

    def logits(self, items: Sequence[Item]) -> list[Array]:
        """Computes many items, in one queue without a bound. Raises: RequestError, as `submit`, but 429; PtuneError."""
        with self._changed:
            jobs = [self._job(item) for item in items]
            self._enqueue(jobs)
        return [job.done.result() for job in jobs]

    def stats(self) -> EncoderStats:
        with self._changed:
            waiting = len(self._waiting) + len(self._arriving)
            return EncoderStats(self._running, waiting, self._passes, self._rows, self._tokens)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Takes no more items and waits for those that are there. Returns whether all have finished."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(
                lambda: not (self._waiting or self._arriving or self._running), timeout_s
            )

    def close(self) -> None:
        """Cancels what is left and ends the thread. May be called twice."""
        with self._changed:
            self._open, self._closing = False, True
            for job in (*self._waiting, *self._arriving):
                job.done.cancel()
            self._changed.notify_all()
        self._thread.join()
        self._registry.close()
        atexit.unregister(self.close)

    def _run(self) -> None:
        """The thread: sleeps while there is nothing to do, else computes passes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    self._waiting.clear()
                    self._changed.notify_all()
                    return
                jobs = self._next()
                self._running = len(jobs)
            _answer(jobs, self._compute)
            with self._changed:
                self._running = 0
                self._passes += bool(jobs)
                self._rows += len(jobs)
                self._tokens += sum(job.item.length for job in jobs)
                self._give_back(jobs)
                self._changed.notify_all()

    def _next(self) -> list[_Job]:
        """Takes the next pass's jobs out of the queue; those that were cancelled meanwhile are left out."""
        chosen = {*choose([job.item.length for job in self._waiting], self._max_batch)}
        waiting = list(enumerate(self._waiting))
        self._waiting = deque(job for index, job in waiting if index not in chosen)
        picked = [job for index, job in waiting if index in chosen]
        live = [job for job in picked if job.done.set_running_or_notify_cancel()]
        self._give_back([job for job in picked if job not in live])
        return live

    def _give_back(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            if job.served is not None:
                self._registry.give_back(job.served)

    def _compute(self, jobs: Sequence[_Job]) -> list[Array]:
        """One pass of the body, then each adapter's head on its own rows."""
        inputs = padded([job.item for job in jobs], self.signature)
        factors = [job.served.factors if job.served and job.served.factors.rank else None for job in jobs]
        stack = self._stacks.of({one for one in factors if one is not None})
        rows: dict[Served | None, list[int]] = {}
        for row, job in enumerate(jobs):
            rows.setdefault(job.served, []).append(row)
        with self.pulse.step(len(jobs)):
            hidden = self._session.run({**inputs, "lora_mask": stack.lora_mask(factors)}, stack.inputs)
        lengths = inputs.get("lengths")
        found: dict[int, Array] = {}
        for served, own in rows.items():
            out = _headed(hidden[own], None if lengths is None else lengths[own], served)
            found |= dict(zip(own, out, strict=True))
        return [found[row] for row in range(len(jobs))]

    def _enqueue(self, jobs: Sequence[_Job]) -> None:
        """Into the queue, each as soon as its adapter is in memory."""
        for job in jobs:
            if job.item.adapter == BASE:
                self._waiting.append(job)
            else:
                self._arriving[job] = None
                self._registry.take(job.item.adapter, partial(self._arrived, job))
        self._changed.notify_all()

    def _arrived(self, job: _Job, found: Served | PtuneError) -> None:
        """A job's adapter is in memory, or cannot be. Called under the lock."""
        del self._arriving[job]
        if not isinstance(found, PtuneError):
            job.served = found
            self._waiting.append(job)
        elif job.done.set_running_or_notify_cancel():
            job.done.set_exception(found)
        self._changed.notify_all()

    def _served_from(self, folder: Path, record: AdapterRecord) -> Served:
        alone = not (folder / NO_FACTORS).is_file()
        factors = Adapter(record.name, 0, {}, 0) if alone else load_adapter(folder, self.signature)
        return Served(record, factors, HeadSession(folder / HEAD, self.signature))

    def _job(self, item: Item) -> _Job:
        """A job for an item that can be encoded."""
        if not self._open:
            raise shutting_down()
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
        return _Job(item, Future())


def _bytes(folder: Path, record: AdapterRecord) -> int:
    """What an adapter takes in memory, about: its factors, and its head as it lies on disk."""
    if not (folder / HEAD).is_file():
        raise FormatError(f"{folder / HEAD} is missing")
    factors = factor_bytes(folder) if (folder / NO_FACTORS).is_file() else 0
    return factors + (folder / HEAD).stat().st_size


def _headed(hidden: Array, lengths: Array | None, served: Served | None) -> list[Array]:
    """Logits of rows of one adapter, or their hidden states; of texts without the padding."""
    if lengths is None:
        return list(hidden if served is None else served.head.run(hidden, None))
    hidden = hidden[:, : lengths.max()]
    out = hidden if served is None else served.head.run(hidden, lengths)
    if out.ndim == 2:  # one for the whole text
        return list(out)
    return [row[:length] for row, length in zip(out, lengths, strict=True)]


def _answer(jobs: Sequence[_Job], compute: Callable[[Sequence[_Job]], list[Array]]) -> None:
    """Computes jobs together; where that fails, one by one, so that nobody fails for his neighbour's sake."""
    if not jobs:
        return
    try:
        for job, logits in zip(jobs, compute(jobs), strict=True):
            job.done.set_result(logits)
    except Exception as error:
        if len(jobs) > 1:
            for job in jobs:
                _answer([job], compute)
            return
        logging.getLogger(__name__).error("a pass failed", exc_info=error)
        jobs[0].done.set_exception(PtuneError(f"the engine could not compute this: {error}"))
