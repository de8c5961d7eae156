"""The engine: requests in, tokens out. One thread, one primitive: a step that computes a column of tokens."""

from __future__ import annotations

import atexit
import math
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptune.engine.adapters.lora import factor_bytes, load_adapter
from ptune.engine.adapters.pending import PendingAdapters
from ptune.engine.adapters.registry import Registry, shutting_down
from ptune.engine.base import EngineBase, check_counts
from ptune.engine.decoder import loop
from ptune.engine.decoder.beam_sequences import BeamGroup
from ptune.engine.decoder.generation import SampledSequence, ScoredSequence
from ptune.engine.decoder.golden import replay
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.kv_cache import KvCache
from ptune.engine.decoder.loop import Loop
from ptune.engine.decoder.request import Request, Token, require_tokens
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.decoder.step import Logits, Step
from ptune.engine.decoder.ticket import Ticket, drawn, until_finish
from ptune.engine.metrics import EngineMetrics
from ptune.errors import PtuneError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import read_json

GIB = 1 << 30
GUESSES = 16
STEP_MS = 200.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment; `steps`, `tokens` (computed: prompt, output, guesses), `reused` (prompt tokens that were
    found in the cache) and `preempted` (rows that gave way to another tenant's) count from its start."""

    running: int
    waiting: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    steps: int
    tokens: int
    reused: int = 0
    preempted: int = 0


class Engine(EngineBase):
    """Serves one bundle's base and adapters, mixed in every step. All methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: Graphs,
        cache: KvCache,
        *,
        prefill_chunk: int = 128,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
        guesses: int = GUESSES,
        step_ms: float = STEP_MS,
    ) -> None:
        self.signature = bundle.decoder
        self.pulse = EngineMetrics()
        self.context = cache.capacity  # longest sequence, prompt and output, in tokens
        self._cache = cache
        step_s = step_ms / 1000 or None
        self._scheduler = Scheduler(cache.slots, prefill_chunk, max_waiting, guesses, cache.copy, step_s)
        self._step = Step(graphs, self.signature, cache)
        self._open = True  # takes requests
        self._changed = threading.Condition()  # guards the scheduler, the arrivals, the adapters and the flag
        self._registry = Registry(
            bundle,
            lambda folder, _: load_adapter(folder, self.signature),
            lambda folder, _: factor_bytes(folder),
            self._changed,
            base_answers=True,
            limit_bytes=adapter_bytes,
        )
        self._arrivals = PendingAdapters(self._scheduler, self._registry, self._changed)
        self._loop = Loop(
            self._scheduler, self._arrivals, self._changed, self.pulse, lambda chunks: self._step(chunks)
        )
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
        prefill_chunk: int = 128,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
        guesses: int = GUESSES,
        step_ms: float = STEP_MS,
        replay_golden: bool = True,
    ) -> Engine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporting one's.

        profile: which graph; default: the bundle's own choice.
        threads: of a step; default: the cores that this process may use.
        kv_bytes, max_rows: memory for the cache, and into how many sequences' slots it is cut at most.
        prefill_chunk: prompt tokens that one step computes at most.
        max_waiting: requests that wait for a slot, or for their adapter, at most; where they are one tenant's or a few's,
            others have an eighth of it each beside.
        guesses: tokens that a step computes on suspicion at most (see ptune.engine.decoder.ngram_speculation); 0 = none.
        step_ms: what a step with rows that are generating should take at most, in milliseconds: prompts are computed in
            smaller chunks where measured steps say so (see ptune.engine.decoder.step_time); 0 = any time.
        adapter_bytes: memory for adapters; beyond it, those that were used least recently are read again when asked for.

        Raises: FormatError, AdapterError, UsageError; ParityError where this machine computes otherwise.
        """
        _check_options(step_ms, max_rows=max_rows, prefill_chunk=prefill_chunk, threads=threads or 1)
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = bundle.manifest
        graph = bundle.graph_path(profile)
        about = manifest.graphs[profile or manifest.default_profile]
        bundle.check_files(about.files)
        cache = KvCache.within(kv_bytes, bundle.decoder, max_rows)
        engine = cls(
            bundle,
            Graphs.open(graph, bundle.decoder, threads, about.least_tokens),
            cache,
            prefill_chunk=prefill_chunk,
            max_waiting=max_waiting,
            adapter_bytes=adapter_bytes,
            guesses=guesses,
            step_ms=step_ms,
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

    def submit(self, request: Request, deliver: Callable[[Token], None]) -> Ticket:
        """Queues a request. `deliver` gets its tokens one by one, on the engine's thread; it must be quick.

        A request with beams has as many rows as beams, and its tokens come at its end.
        While its adapter is being read it waits outside the queue, and nobody else waits for that.
        Raises: RequestError: 400 for what cannot be served, 404 for an unknown adapter, 429 where the queue is full
        (see ptune.engine.decoder.fairness), 503 while the engine drains.
        """
        with self._changed:
            row = self._row(request, deliver)
            own = self._arrivals.waiting(request.tenant)
            self._scheduler.require_room(request.tenant, own, len(self._arrivals) - own)
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
            rows = [self._row(request, tokens.put) for request, tokens in zip(requests, queues, strict=True)]
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
                require_tokens(sequence, 0, self.signature.vocab_size, self.context)
                self._registry.record(name)
                rows.append(ScoredSequence(sequence, None, self.signature.vocab_size))
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
                waiting=len(self._scheduler.waiting) + len(self._arrivals),
                kv_used_tokens=sum(row.cached for row in self._scheduler.computing),
                kv_capacity_tokens=self._cache.slots * self._cache.capacity,
                steps=self._loop.steps,
                tokens=self._loop.tokens,
                reused=self._scheduler.slots.reused,
                preempted=self._scheduler.preempted,
            )

    def drain(self, timeout_s: float | None = None) -> bool:
        """Takes no more requests and waits for those that are there. Returns whether all have finished."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not (self._scheduler.busy or self._arrivals), timeout_s)

    def close(self) -> None:
        """Cancels what is left and ends the thread. May be called twice."""
        with self._changed:
            self._open = False
        self._loop.close()
        self._registry.close()
        atexit.unregister(self.close)

    def _enqueue(self, rows: Sequence[TokenSequence], adapters: Sequence[str]) -> None:
        """Rows of known adapters: into the queue, each as soon as its adapter is in memory."""
        self.pulse.came(rows)
        for row, name in zip(rows, adapters, strict=True):
            self._arrivals.enter(row, name)

    def _cancel(self, row: TokenSequence) -> None:
        with self._changed:
            row.cancelled = True
            self._changed.notify_all()

    def _require_open(self) -> None:
        if not self._open:
            raise shutting_down()

    def _row(self, request: Request, deliver: Callable[[Token], None]) -> TokenSequence:
        """A row for a request that can be served."""
        self._require_open()
        request.require_servable(self.signature.vocab_size, self.context, self._cache.slots)
        self._registry.record(request.adapter)
        deadline_s = math.inf if request.deadline_s is None else loop.clock_s() + request.deadline_s
        if request.beams is not None:
            return BeamGroup(request, request.beams, self._scheduler.slots.fork, deliver, deadline_s)
        return SampledSequence(request, deliver, deadline_s)


def _check_options(step_ms: float, **counts: int) -> None:
    """Raises: UsageError."""
    check_counts(**counts)
    if not 0 <= step_ms < math.inf:
        raise UsageError(f"step_ms must be 0 (any time) or more (is {step_ms})")
