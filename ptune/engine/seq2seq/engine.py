"""The engine of an encoder-decoder: a source is read once and its target written token by token, the likeliest each time.

One thread. Requests join and leave between steps; adapters are mixed in every pass.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ptune.codecs.seq2seq import Writing
from ptune.engine.adapters.lora import Adapter, factor_bytes, load_adapter
from ptune.engine.adapters.registry import Registry, queue_full, shutting_down
from ptune.engine.adapters.stacked import Stack, Stacks
from ptune.engine.base import EngineBase, check_counts
from ptune.engine.metrics import EngineMetrics
from ptune.engine.onnx_graph import Array
from ptune.engine.seq2seq.caches import SequenceCaches
from ptune.engine.seq2seq.golden import replay
from ptune.engine.seq2seq.request import Sentence, Ticket, Written
from ptune.engine.seq2seq.session import Seq2SeqSession
from ptune.errors import PtuneError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle

MOST_READ = 8192  # tokens of sources that are read at once, padding included


@dataclass(frozen=True, slots=True)
class Seq2SeqStats:
    """The engine at one moment, in requests."""

    running: int
    waiting: int


class Seq2SeqEngine(EngineBase):
    """Serves one bundle's encoder-decoder under all its adapters. All methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        session: Seq2SeqSession,
        writing: Writing,
        *,
        max_batch: int = 32,
        max_waiting: int = 256,
        adapter_bytes: int | None = None,
    ) -> None:
        self.signature = bundle.seq2seq
        self.context = self.signature.context
        self.writing = writing
        self.pulse = EngineMetrics()
        self._session, self._stacks = session, Stacks(self.signature)
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._waiting: deque[Ticket] = deque()
        self._arriving: dict[Ticket, None] = {}  # their adapters are being read
        self._active: list[Ticket] = []  # one a row
        self._rows = SequenceCaches(self.signature)
        self._open, self._closing = True, False
        self._changed = threading.Condition()  # guards everything above but rows
        self._registry: Registry[Adapter] = Registry(
            bundle, self._read, _bytes, self._changed, base_answers=True, limit_bytes=adapter_bytes
        )
        self._thread = threading.Thread(target=self._run, name="ptune-seq2seq", daemon=True)
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
    ) -> Seq2SeqEngine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporting one's.

        profile: which graphs; there is one so far. threads: of a pass; default: the cores that this process may use.
        max_batch: rows of a step at most. max_waiting: requests that wait at most. adapter_bytes: memory for adapters;
        beyond it, those that were used least recently are read again when asked for.
        Raises: FormatError, AdapterError, UsageError; ParityError where this machine computes otherwise.
        """
        options = {"max_batch": max_batch, "max_waiting": max_waiting}
        check_counts(**options, threads=threads or 1)
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = bundle.manifest
        graphs = bundle.graph_path(profile).parent
        bundle.check_files({**manifest.graphs[graphs.name].files, **manifest.codec})
        session = Seq2SeqSession(graphs, bundle.seq2seq, threads)
        engine = cls(bundle, session, Writing.open(bundle.codec_path), adapter_bytes=adapter_bytes, **options)
        try:
            engine._registry.load_all()
            if replay_golden:
                bundle.check_files(manifest.golden)
                replay(engine, bundle)
        except BaseException:
            engine.close()
            raise
        return engine

    def stats(self) -> Seq2SeqStats:
        with self._changed:
            return Seq2SeqStats(len(self._active), len(self._waiting) + len(self._arriving))

    def submit(self, sentence: Sentence) -> Ticket:
        """Queues a request.

        Raises: RequestError: 400 for what cannot be written, 404, 429 where the queue is full, 503 once it is closed.
        """
        with self._changed:
            waiting = len(self._waiting) + len(self._arriving)
            if waiting >= self._max_waiting:
                raise queue_full(waiting)
            return self._enqueue(sentence)

    def write(self, sentences: Sequence[Sentence]) -> list[Written]:
        """Writes many, in one queue without a bound. Raises: RequestError, as `submit`, but 429; PtuneError."""
        with self._changed:
            tickets = [self._enqueue(sentence) for sentence in sentences]
        return [ticket.result() for ticket in tickets]

    def close(self) -> None:
        """Ends the thread, and what is left with an error. May be called twice."""
        with self._changed:
            self._open, self._closing = False, True
            self._changed.notify_all()
        self._thread.join()
        self._registry.close()
        atexit.unregister(self.close)

    def _enqueue(self, sentence: Sentence) -> Ticket:
        if not self._open:
            raise shutting_down()
        self._registry.record(sentence.adapter)
        sentence.require_servable(self.signature.vocab_size, self.context)
        ticket = Ticket(sentence, self._wake)
        if sentence.adapter == BASE:
            self._waiting.append(ticket)
        else:
            self._arriving[ticket] = None
            self._registry.take(sentence.adapter, partial(self._arrived, ticket))
        self._changed.notify_all()
        return ticket

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _arrived(self, ticket: Ticket, found: Adapter | PtuneError) -> None:
        """A request's adapter is in memory, or cannot be. Called under the lock."""
        expected = ticket in self._arriving
        self._arriving.pop(ticket, None)
        if isinstance(found, PtuneError):
            if expected:
                ticket.fail(found)
        elif expected:
            ticket.adapter = found
            self._waiting.append(ticket)
        else:  # it was given up meanwhile
            self._registry.give_back(found)
        self._changed.notify_all()

    def _read(self, folder: Path, _: AdapterRecord) -> Adapter:
        return load_adapter(folder, self.signature)

    def _run(self) -> None:
        """The thread: turn by turn until it is closed."""
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # the rows are not to be trusted, and nobody is to wait for ever
                gone, self._active, self._rows = self._active, [], SequenceCaches(self.signature)
                self._fail(gone, error)
        with self._changed:
            left = (*self._active, *self._waiting, *self._arriving)
            self._active = []
            self._waiting.clear()
            self._arriving.clear()
        for ticket in left:
            ticket.fail(shutting_down())

    def _turn(self) -> None:
        """Sleeps while there is nothing to do, else takes in who waits and writes one token of each."""
        with self._changed:
            self._sleep()
            if self._closing:
                return
            over, new = self._drop_over(), self._next()
        for ticket in over:
            ticket.give_up()
        self._give_back(over)
        if new:
            self._join(new)
        if self._active:
            self._step()

    def _sleep(self) -> None:
        """While there is nothing to do. A request whose adapter is being read may come to its deadline meanwhile."""
        while not (self._closing or self._waiting or self._active or any(one.over for one in self._arriving)):
            first_s = min((one.late_s for one in self._arriving), default=math.inf)
            self._changed.wait(None if first_s == math.inf else max(0.0, first_s - time.monotonic()))

    def _drop_over(self) -> list[Ticket]:
        """Takes out the requests that were cancelled or are late, wherever they are, and returns them."""
        over = {ticket for ticket in (*self._active, *self._waiting, *self._arriving) if ticket.over}
        if over:
            kept = [row for row, ticket in enumerate(self._active) if ticket not in over]
            self._keep(kept)
            self._waiting = deque(ticket for ticket in self._waiting if ticket not in over)
            self._arriving = {ticket: None for ticket in self._arriving if ticket not in over}
        return list(over)

    def _next(self) -> list[Ticket]:
        """Who joins: in order of arrival, as many as there are rows and one pass of reading takes."""
        new: list[Ticket] = []
        longest = 0
        while self._waiting and len(self._active) + len(new) < self._max_batch:
            longest = max(longest, len(self._waiting[0].sentence.source))
            if new and longest * (len(new) + 1) > MOST_READ:
                break
            new.append(self._waiting.popleft())
            self.pulse.queue_s.add(time.monotonic() - new[-1].came_s)
        return new

    def _join(self, new: list[Ticket]) -> None:
        """Reads the sources of new rows. Where that fails, it fails for them alone."""
        try:
            lengths = np.array([len(ticket.sentence.source) for ticket in new], np.int64)
            ids = np.zeros((len(new), lengths.max()), np.int64)
            for row, ticket in enumerate(new):
                ids[row, : lengths[row]] = ticket.sentence.source
            stack, lora_mask = self._stacked(new)
            inputs = {"input_ids": ids, "lengths": lengths, "lora_mask": lora_mask}
            with self.pulse.step(len(new)):
                cross = self._session.read(inputs, stack.inputs)
            self._rows.join(cross, lengths)
        except Exception as error:
            self._fail(new, error)
        else:
            self._active += new

    def _step(self) -> None:
        """One token of every row."""
        start = self.writing.start_id
        last = np.array([[one.ids[-1] if one.ids else start] for one in self._active], np.int64)
        stack, lora_mask = self._stacked(self._active)
        inputs = {"input_ids": last, "lora_mask": lora_mask, **self._rows.inputs()}
        with self.pulse.step(len(self._active)):
            logits, new = self._session.write(inputs, stack.inputs)
        self._rows.wrote(new)
        rows = enumerate(self._active)
        kept = [row for row, ticket in rows if not ticket.write(logits[row, 0], self.writing)]
        self._give_back(self._keep(kept))

    def _keep(self, kept: list[int]) -> list[Ticket]:
        """Only these rows stay. Returns the others."""
        if len(kept) == len(self._active):
            return []
        stay = {*kept}
        gone = [ticket for row, ticket in enumerate(self._active) if row not in stay]
        self._rows.keep(kept)
        self._active = [self._active[row] for row in kept]
        return gone

    def _stacked(self, tickets: Sequence[Ticket]) -> tuple[Stack, Array]:
        """The factors of all rows' adapters, and which columns of them each row uses."""
        adapters = [ticket.adapter for ticket in tickets]
        stack = self._stacks.of({adapter for adapter in adapters if adapter is not None})
        return stack, stack.lora_mask(adapters)

    def _fail(self, gone: Sequence[Ticket], error: Exception) -> None:
        """Ends who was in a pass that failed: nobody is to wait for ever."""
        logging.getLogger(__name__).error("a pass failed", exc_info=error)
        for ticket in gone:
            ticket.fail(PtuneError(f"the engine could not compute this: {error}"))
        self._give_back(gone)

    def _give_back(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            for ticket in tickets:
                if ticket.adapter is not None:
                    self._registry.give_back(ticket.adapter)


def _bytes(folder: Path, _: AdapterRecord) -> int:
    return factor_bytes(folder)
