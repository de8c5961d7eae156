"""The engine: requests in, tokens out. One thread, one primitive: a step that computes a column of tokens."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptune.engine.adapters import Adapter, factor_bytes, load_adapter
from ptune.engine.golden import replay
from ptune.engine.kv_cache import KvCache
from ptune.engine.registry import AdapterStats, Registry, queue_full, shutting_down
from ptune.engine.request import Request, Token
from ptune.engine.rows import Generation, Scoring
from ptune.engine.scheduler import Chunk, Row, Scheduler
from ptune.engine.session import Session
from ptune.engine.step import Logits, Step
from ptune.engine.ticket import Ticket, drawn, until_finish
from ptune.errors import PtuneError, RequestError, UsageError
from ptune.formats.bundle import BARE, BASE, AdapterRecord, Bundle
from ptune.formats.signature import Signature
from ptune.formats.whole_write import read_json

GIB = 1 << 30
GUESSES = 16
LIGHT = 512 << 20  # bytes of weights that may be in memory twice, once for steps without adapters


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment; `steps`, `tokens` (computed: prompt, output, guesses) and `reused` (prompt tokens that were
    found in the cache) count from its start."""

    running: int
    waiting: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    steps: int
    tokens: int
    reused: int = 0


class Engine:
    """Serves one bundle's base and adapters, mixed in every step. All methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        cache: KvCache,
        *,
        prefill_chunk: int = 256,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
        guesses: int = GUESSES,
        bare: Session | None = None,
    ) -> None:
        self.signature = bundle.decoder
        self.context = cache.capacity  # longest sequence, prompt and output, in tokens
        self._cache = cache
        self._scheduler = Scheduler(cache.slots, prefill_chunk, max_waiting, guesses, cache.copy)
        self._max_waiting = max_waiting
        self._arriving: dict[Row, None] = {}  # their adapters are being read; in order of arrival
        self._step = Step(session, self.signature, cache, bare)
        self._steps = self._tokens = 0
        self._open = True  # takes requests
        self._closing = False
        self._changed = threading.Condition()  # guards the scheduler, the adapters and the two flags
        self._registry = Registry(
            bundle,
            lambda folder, _: load_adapter(folder, self.signature),
            lambda folder, _: factor_bytes(folder),
            self._changed,
            base_answers=True,
            limit_bytes=adapter_bytes,
        )
        self._thread = threading.Thread(target=self._run, name="ptune-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # or the interpreter would take the graph away under a running step

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        *,
        profile: str | None = None,
        threads: int | None = None,
        kv_bytes: int = GIB,
        max_rows: int = 32,
        prefill_chunk: int = 256,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
        guesses: int = GUESSES,
        replay_golden: bool = True,
    ) -> Engine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporting one's.

        profile: which graph; default: the bundle's own choice.
        threads: of a step; default: the cores that this process may use.
        kv_bytes, max_rows: memory for the cache, and into how many sequences' slots it is cut at most.
        prefill_chunk: prompt tokens that one step computes at most.
        max_waiting: requests that wait for a slot, or for their adapter, at most.
        guesses: tokens that a step computes on suspicion at most (see ptune.engine.speculation); 0 = none.
        adapter_bytes: memory for adapters; beyond it, those that were used least recently are read again when asked for.

        Raises: FormatError, AdapterError, UsageError; ParityError where this machine computes otherwise.
        """
        for name, value in (
            ("max_rows", max_rows),
            ("prefill_chunk", prefill_chunk),
            ("threads", threads or 1),
        ):
            if value < 1:
                raise UsageError(f"{name} must be 1 or more (is {value})")
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = bundle.manifest
        graph = bundle.graph_path(profile)
        bundle.check_files(manifest.graphs[profile or manifest.default_profile].files)
        cache = KvCache.within(kv_bytes, bundle.decoder, max_rows)
        session = Session(graph, bundle.decoder, threads)
        bare = _bare(graph, bundle.decoder, threads)
        engine = cls(
            bundle,
            session,
            cache,
            prefill_chunk=prefill_chunk,
            max_waiting=max_waiting,
            adapter_bytes=adapter_bytes,
            guesses=guesses,
            bare=bare,
        )
        try:
            engine._registry.load_all()
            if replay_golden:
                bundle.check_files(manifest.golden)
                replay(engine, read_json(bundle.golden_file(profile or manifest.default_profile)))
        except BaseException:
            engine.close()
            raise
        return engine

    @property
    def bundle(self) -> Bundle:
        """As it was when an adapter was loaded last, or `refresh` was called."""
        return self._registry.bundle

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, in memory or not; the base is always there and not among them."""
        return self._registry.names

    @property
    def in_memory(self) -> list[str]:
        """Names of the adapters whose factors are in memory."""
        return self._registry.in_memory

    def record(self, name: str) -> AdapterRecord | None:
        """What an adapter says of itself; None = the base. Raises: RequestError, 404, where there is none."""
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
        """Takes no more requests for an adapter; those that are there finish. Raises: RequestError, 404."""
        self._registry.drop(name)

    def submit(self, request: Request, deliver: Callable[[Token], None]) -> Ticket:
        """Queues a request. `deliver` gets its tokens one by one, on the engine's thread; it must be quick.

        While its adapter is being read it waits outside the queue, and nobody else waits for that.
        Raises: RequestError: 400 for what cannot be served, 404 for an unknown adapter, 429 where the queue is full,
        503 while the engine drains.
        """
        with self._changed:
            row = self._generation(request, deliver)
            waiting = len(self._scheduler.waiting) + len(self._arriving)
            if waiting >= self._max_waiting:
                raise queue_full(waiting)
            self._enqueue([row], [request.adapter])
        return Ticket(lambda: self._cancel(row))

    def generate(self, request: Request) -> Generator[Token, None, None]:
        """Submits at once and yields the tokens as they come; an iterator that is given up cancels the request.

        Raises: RequestError, as `submit`.
        """
        tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        return drawn(tokens, self.submit(request, tokens.put))

    def generate_all(self, requests: Sequence[Request]) -> list[list[Token]]:
        """Answers many requests at once, in one queue without a bound. Raises: RequestError, as `submit`, but 429."""
        queues: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in requests]
        with self._changed:
            rows = [
                self._generation(request, tokens.put)
                for request, tokens in zip(requests, queues, strict=True)
            ]
            self._enqueue(rows, [request.adapter for request in requests])
        return [list(until_finish(tokens)) for tokens in queues]

    def logits(self, ids: Sequence[Sequence[int]], adapters: Sequence[str]) -> list[Logits]:
        """Logits [tokens, vocab] of sequences, each under its adapter: mixed and chunked as requests are.

        Raises: RequestError for a sequence that cannot be served; PtuneError where the step fails.
        """
        with self._changed:
            self._require_open()
            rows = []
            for sequence, name in zip(ids, adapters, strict=True):
                self._check_tokens(sequence, 0)
                self._registry.record(name)
                rows.append(Scoring(sequence, None, self.signature.vocab_size))
            self._enqueue(rows, adapters)
        for row in rows:
            row.done.wait()
            if row.error:
                raise PtuneError(row.error)
        return [row.logits for row in rows]

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                running=len(self._scheduler.running),
                waiting=len(self._scheduler.waiting) + len(self._arriving),
                kv_used_tokens=sum(row.cached for row in self._scheduler.running),
                kv_capacity_tokens=self._cache.slots * self._cache.capacity,
                steps=self._steps,
                tokens=self._tokens,
                reused=self._scheduler.slots.reused,
            )

    def drain(self, timeout_s: float | None = None) -> bool:
        """Takes no more requests and waits for those that are there. Returns whether all have finished."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not (self._scheduler.busy or self._arriving), timeout_s)

    def close(self) -> None:
        """Cancels what is left and ends the thread. May be called twice."""
        with self._changed:
            self._open = False
            self._closing = True
            for row in (*self._scheduler.running, *self._scheduler.waiting, *self._arriving):
                row.cancelled = True
            self._changed.notify_all()
        self._thread.join()
        self._registry.close()
        atexit.unregister(self.close)

    def _run(self) -> None:
        """The thread: sleeps while there is nothing to do, else steps."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._scheduler.busy or self._given_up())
                dropped = self._drop_cancelled()
                chunks = self._scheduler.plan()
                closing = self._closing
                self._changed.notify_all()
            for row in dropped:
                row.end("cancelled")
            if closing:
                return
            if chunks:
                self._compute(chunks)

    def _compute(self, chunks: list[Chunk]) -> None:
        """One step and what follows from it. What goes wrong ends the rows it concerns, never the engine."""
        try:
            columns = self._step(chunks)
        except Exception as error:
            for chunk in chunks:
                _fail(chunk.row, error)
        else:
            self._steps += 1
            self._tokens += sum(map(len, chunks))
            self._scheduler.computed(chunks)
            for chunk, logits in zip(chunks, columns, strict=True):
                try:
                    chunk.row.take(chunk, logits)
                except Exception as error:
                    _fail(chunk.row, error)
        with self._changed:
            done = [chunk.row for chunk in chunks if chunk.row.finished]
            self._scheduler.release(done)
            self._give_back(done)
            self._changed.notify_all()

    def _enqueue(self, rows: Sequence[Row], adapters: Sequence[str]) -> None:
        """Rows of known adapters: into the queue, each as soon as its adapter is in memory."""
        for row, name in zip(rows, adapters, strict=True):
            if name == BASE:
                self._scheduler.submit(row)
            else:
                self._arriving[row] = None
                self._registry.take(name, partial(self._arrived, row))
        self._changed.notify_all()

    def _arrived(self, row: Row, found: Adapter | PtuneError) -> None:
        """A row's adapter is in memory, or cannot be. Called under the lock."""
        expected = row in self._arriving
        self._arriving.pop(row, None)
        if isinstance(found, PtuneError):
            if expected:
                row.end("error", str(found))
        elif expected:
            row.adapter = found
            self._scheduler.submit(row)
        else:  # it was given up meanwhile
            self._registry.give_back(found)
        self._changed.notify_all()

    def _given_up(self) -> list[Row]:
        return [row for row in self._arriving if row.cancelled]

    def _drop_cancelled(self) -> list[Row]:
        dropped, given_up = self._scheduler.drop_cancelled(), self._given_up()
        self._give_back(dropped)
        for row in given_up:
            del self._arriving[row]
        return dropped + given_up

    def _give_back(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.adapter is not None:
                self._registry.give_back(row.adapter)

    def _cancel(self, row: Row) -> None:
        with self._changed:
            row.cancelled = True
            self._changed.notify_all()

    def _require_open(self) -> None:
        if not self._open:
            raise shutting_down()

    def _generation(self, request: Request, deliver: Callable[[Token], None]) -> Generation:
        """A row for a request that can be served."""
        vocab = self.signature.vocab_size
        self._require_open()
        self._check_tokens(request.prompt, request.max_tokens)
        if wrong := [token for token in request.sampling.logit_bias if not 0 <= token < vocab]:
            raise RequestError(
                f"logit_bias: no token {wrong[0]}; the vocabulary has {vocab}", param="logit_bias"
            )
        if (request.logprobs or 0) > vocab:
            raise RequestError(f"logprobs must be at most {vocab} (is {request.logprobs})", param="logprobs")
        self._registry.record(request.adapter)
        return Generation(request, None, deliver)

    def _check_tokens(self, prompt: Sequence[int], max_tokens: int) -> None:
        vocab = self.signature.vocab_size
        if not prompt or min(prompt) < 0 or max(prompt) >= vocab:
            raise RequestError(f"a prompt is one or more tokens of 0 to {vocab - 1}", param="prompt")
        if len(prompt) + max_tokens > self.context:
            raise RequestError(
                f"{len(prompt)} prompt tokens and max_tokens {max_tokens} are {len(prompt) + max_tokens} together; "
                f"a sequence may have {self.context}",
                param="max_tokens" if len(prompt) <= self.context else "prompt",
                code="context_length_exceeded",
            )


def _bare(graph: Path, signature: Signature, threads: int | None) -> Session | None:
    """The graph for steps without adapters, where there is one and its weights are light."""
    path = graph.with_name(BARE)
    weights = graph.with_name(f"{graph.name}.data")
    if not path.is_file() or (weights.is_file() and weights.stat().st_size > LIGHT):
        return None
    return Session(path, signature, threads, sockets=False)


def _fail(row: Row, error: Exception) -> None:
    logging.getLogger(__name__).error("a step failed", exc_info=error)
    row.end("error", f"the engine could not compute this: {error}")
