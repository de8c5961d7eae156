"""The engine of a decoder: requests in, tokens out. One primitive: a step that computes a chunk of each sequence."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.in_memory import adapter_of, record_of
from ptune.engine.adapters.lora import Adapter, factor_bytes, load_adapter
from ptune.engine.adapters.sums import combined
from ptune.engine.base import EngineBase
from ptune.engine.decoder.answers.beam_sequences import BeamGroup
from ptune.engine.decoder.answers.distributions import Distributions, LabelledSequence, Wanted
from ptune.engine.decoder.answers.generation import SampledSequence, ScoredSequence
from ptune.engine.decoder.cache.device_cache import on_device
from ptune.engine.decoder.cache.idle import Idle
from ptune.engine.decoder.cache.kv_cache import KvCache, read_scales
from ptune.engine.decoder.drafts.model import DraftModel
from ptune.engine.decoder.drafts.proposals import Drafts
from ptune.engine.decoder.forms import Form, FormError, chosen, own_golden, refuses
from ptune.engine.decoder.golden import Replay
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.attention_metadata import spare_positions
from ptune.engine.decoder.inputs.images import Picture, Tower
from ptune.engine.decoder.request import Request, Token, require_tokens
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.stats import EngineStats
from ptune.engine.decoder.step import Logits, Step
from ptune.engine.decoder.ticket import Ticket, drawn, until_finish
from ptune.engine.job import not_computed
from ptune.engine.options import GIB, EngineKeywords, EngineOptions
from ptune.errors import AdapterError, ParityError, PtuneError
from ptune.formats.bundle import BASE, AdapterRecord, Bundle
from ptune.formats.whole_write import read_json

_log = logging.getLogger(__name__)


class Engine(EngineBase[EngineOptions, TokenSequence, Adapter, list[Chunk]]):
    """Serves one bundle's base and adapters, mixed in every step. Its methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: Graphs,
        cache: KvCache,
        options: EngineOptions = EngineOptions(),
        form: Form | None = None,
        draft_model: DraftModel | None = None,
        idle: Idle | None = None,
    ) -> None:
        self.signature = bundle.decoder
        self.form = form  # its own operators, where it was opened with a bundle's choice
        self.device = graphs.device  # that computes; None for the CPU
        super().__init__(
            bundle,
            options,
            self._load,
            lambda folder, _: factor_bytes(folder, self.signature.ends),
            base_answers=True,
            combine=combined,
        )
        self.context = cache.capacity  # longest sequence, prompt and output, in tokens
        self._cache, self._idle = cache, idle
        self._drafts = Drafts(draft_model, cache)
        self._scheduler = Scheduler(
            cache.slots,
            options.prefill_chunk,
            options.max_waiting,
            0 if self.signature.states else options.num_speculative_tokens,
            self._drafts.copy,
            options.step_ms / 1000 or None,
            self._drafts.cut,
            cache.budget,
            self._drafts.length,
            cache.put,
            cache.snapshots,
            idle,
            cache.slide,
        )
        self._step = Step(graphs, self.signature, cache)
        self.tower = Tower.of(bundle, options.threads)
        self._steps = self._tokens = 0
        self._tidy = None if form is None or form.kernels is None else form.kernels.merge_page
        self._start()

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        options: EngineOptions = EngineOptions(),
        *,
        replay_golden: bool = True,
        **keywords: Unpack[EngineKeywords],
    ) -> Engine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporter's.

        keywords: options that replace those of `options`.
        Raises: FormatError, AdapterError, UsageError; ParityError where the numbers differ.
        """
        options = replace(options, **keywords)
        while True:
            try:
                return cls._opened(bundle, options, replay_golden=replay_golden)
            except FormError as error:
                _log.warning("%s is not used: %s", error.form.name or error.form.title, error)
                options = replace(options, kernels=error.form.next)

    @classmethod
    def _build(cls, bundle: Bundle, graph: Path, options: EngineOptions) -> Engine:
        profile = graph.parent.name
        least_tokens = bundle.manifest.graphs[profile].least_tokens
        if (placed := on_device(bundle, graph, options)) is not None:
            return cls(bundle, *placed, options)
        graph = bundle.graph_path(profile, options.kv_cache_dtype)
        form = chosen(bundle, profile, options.kv_cache_dtype, options.kernels)
        graphs = Graphs.open(graph, bundle.decoder, options.threads, least_tokens, form.kernels)
        spare = spare_positions(graphs.heads, graphs.least_keys)
        scales = read_scales(graph, options.kv_cache_dtype)
        cache = KvCache.within(
            options.kv_bytes, bundle.decoder, options.max_rows, spare, options.kv_cache_dtype, scales
        )
        folder = options.draft_model
        draft_model = None if folder is None else DraftModel.open(folder, bundle, cache, options)
        idle = Idle.of(bundle, options, cache, form)
        return cls(bundle, graphs, cache, options, form, draft_model, idle)

    def _load(self, folder: Path, record: AdapterRecord) -> Adapter:
        """Reads an adapter. Raises: FormatError; AdapterError where it does not fit, or missed its gate with these operators."""
        form = None if self._options.kernels == "own" else self.form
        if form is not None and any(refuses(hop, form) for hop in record.hops):
            raise AdapterError(
                f"adapter {record.name!r} missed its gate with {form.title}, which this server computes with: start the"
                " server again, and it will not"
            )
        adapter = load_adapter(folder, self.signature)
        self._cache.require_place(adapter.name, adapter.prefix)
        return adapter

    def _replay(self, bundle: Bundle, profile: str) -> float:
        form = self.form
        own = None if form is None else own_golden(bundle, form)
        replayed = Replay(self, own or read_json(bundle.golden_file(profile, self._options.kv_cache_dtype)))
        if self.device is not None:
            return replayed.require_near_device()
        try:
            return replayed.require_same()
        except ParityError as error:
            if form is None or not form.other_bits:
                raise
            if own is not None or form.must_be_same:
                raise FormError(form, error) from None
        # Where activations are rounded, sums in another order end as far off as another machine would. So what is served here
        # is compared with the golden answers, and the machine by operators that are closer to the plain graph.
        try:
            replayed.require_near()
        except ParityError as error:
            raise FormError(form, error) from None
        options = replace(self._options, kernels=form.next, draft_model=None, kv_disk=None)
        closer = self._build(bundle, bundle.graph_path(profile), options)
        with closing(closer):
            closer._registry.load_all()
            return closer._replay(bundle, profile)

    def put(
        self, name: str, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.float32]]
    ) -> int:
        """Serves an adapter from memory from the next step on; one of that name is replaced. Returns its version (1, 2, …).

        config: content of PEFT's adapter_config.json. tensors: as adapter_model.safetensors names them, in float32; they are
        copied. Sequences in the engine finish under the version that they began with. The bundle's files stay as they are, and
        the adapter stays in memory until `drop_adapter`, or `load_adapter` of its name, as it could not be read again.
        Raises: AdapterError where it does not fit the base, or `adapter_bytes`.
        """
        adapter = adapter_of(name, config, tensors, self.signature)
        self._cache.require_place(adapter.name, adapter.prefix)
        return self._registry.put(record_of(adapter), adapter, adapter.bytes)

    def submit(self, request: Request, deliver: Callable[[Token], None]) -> Ticket:
        """Queues a request. `deliver` gets its tokens one by one, on the engine's thread; it must be quick.

        A request with beams occupies one slot for each beam, and its tokens are delivered at its end.
        While its adapter is being read it waits outside the queue, and nobody else waits for that.
        Raises: RequestError: 400 where it cannot be served, 404 for an unknown adapter, 429 where the queue is full
        (see ptune.engine.decoder.fairness), 503 while the engine drains.
        """
        with self._changed:
            sequence = self._sequence(request, deliver)
            own = sum(waits.tenant == request.tenant for waits in self._pending)
            self._scheduler.require_room(request.tenant, own, len(self._pending) - own)
            self._enqueue(sequence, request.adapter, len(request.prompt))
        return Ticket(lambda: self._cancel(sequence), lambda: sequence.reused)

    def generate(self, request: Request) -> Generator[Token, None, None]:
        """Submits at once and yields the tokens as they are computed; closing the iterator cancels the request.

        Raises: RequestError, as `submit`.
        """
        tokens: queue.SimpleQueue[Token] = queue.SimpleQueue()
        return drawn(tokens, self.submit(request, tokens.put))

    def generate_all(self, requests: Sequence[Request]) -> list[list[Token]]:
        """Answers many requests in one queue without a bound. Raises: RequestError, as `submit`, but 429."""
        queues: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in requests]
        with self._changed:
            sequences = [
                self._sequence(request, tokens.put) for request, tokens in zip(requests, queues, strict=True)
            ]
            for sequence, request in zip(sequences, requests, strict=True):
                self._enqueue(sequence, request.adapter, len(request.prompt))
        return [list(until_finish(tokens)) for tokens in queues]

    def logits(
        self,
        ids: Sequence[Sequence[int]],
        adapters: Sequence[str],
        pictures: Sequence[Picture] = (),
        positions: Sequence[Sequence[int] | None] | None = None,
    ) -> list[Logits]:
        """Computes logits [positions, vocab] of token lists, each under its adapter: mixed and chunked as requests are. Rows of
        `pictures` may be among the tokens. positions: ascending, of each list; None: all.
        Raises: RequestError for a list that cannot be served; PtuneError where the step fails.
        """
        with self._changed:
            self._require_open()
            sequences = []
            for tokens, name, kept in zip(ids, adapters, positions or [None] * len(ids), strict=True):
                vocab = self.vocab_size(name)
                require_tokens(tokens, 0, vocab, self.longest(adapter=name), pictures)
                sequences.append(ScoredSequence(tokens, vocab, pictures, kept))
            for sequence, name in zip(sequences, adapters, strict=True):
                self._enqueue(sequence, name, len(sequence.tokens))
        for sequence in sequences:
            sequence.wait()
        return [sequence.logits for sequence in sequences]

    def distributions(
        self, texts: Sequence[tuple[Sequence[int], Sequence[bool]]], adapter: str, wanted: Wanted
    ) -> Iterator[Distributions]:
        """What an adapter's model thinks likely in the place of each target of texts (ids, targets): all are computed at once,
        mixed and chunked as requests are, and yielded in order.

        Raises: RequestError for a text that cannot be served; PtuneError where the step fails.
        """
        with self._changed:
            self._require_open()
            vocab, longest = self.vocab_size(adapter), self.longest(adapter=adapter)
            for ids, _ in texts:
                require_tokens(ids, 0, vocab, longest)
            sequences = [LabelledSequence(ids, targets, wanted) for ids, targets in texts]
            for sequence in sequences:
                self._enqueue(sequence, adapter, len(sequence.tokens))
        for sequence in sequences:
            sequence.wait()
            yield sequence.found

    def vocab_size(self, adapter: str) -> int:
        """Tokens that an adapter knows, its own included. Raises: RequestError, 404, where there is no such adapter."""
        record = self._registry.record(adapter)
        own = None if record is None else record.vocab_size
        return own or self.signature.vocab_size

    def longest(self, beams: int = 1, adapter: str = BASE) -> int:
        """Most tokens, prompt and output, of one sequence under an adapter, or of each of a request's beams, of which each takes
        a slot. Raises: RequestError, 404, where there is no such adapter."""
        record = self._registry.record(adapter)
        fit = min(self.context, self._cache.budget.longest(min(beams, self._cache.slots)))
        return max(0, fit - (0 if record is None else record.virtual_tokens))

    def capacity(self) -> str:
        """How many sequences run at once, and how long they may be, in words."""
        cache, where = self._cache, "" if self.device is None else f" of {self.device.title}"
        return (
            f"{cache.slots} sequences at once, each of up to {cache.capacity:,} tokens, and "
            f"{cache.budget.tokens:,} tokens together in {self._options.kv_bytes / GIB:.3g} GB{where}"
        )

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                running=len(self._scheduler.running),
                waiting=len(self._scheduler.waiting) + len(self._pending),
                kv_used_tokens=sum(sequence.cached for sequence in self._scheduler.computing),
                kv_capacity_tokens=self._cache.budget.tokens,
                kv_resident_bytes=self._cache.resident_bytes + self._drafts.resident_bytes,
                steps=self._steps,
                tokens=self._tokens,
                reused=self._scheduler.slots.reused,
                preempted=self._scheduler.preempted,
                drafted=self._drafts.drafted,
                accepted=self._drafts.accepted,
                slid_bytes=self._cache.slid_bytes,
                disk=None if self._idle is None else self._idle.folder.stats(),
            )

    def _sequence(self, request: Request, deliver: Callable[[Token], None]) -> TokenSequence:
        """Makes a sequence for a request that can be served."""
        self._require_open()
        vocab = self.vocab_size(request.adapter)
        beams = 1 if request.beams is None else request.beams.num_beams
        request.require_servable(vocab, self.longest(beams, request.adapter), self._cache.slots)
        deadline_s = self._deadline(request.deadline_s)
        if request.beams is not None:
            return BeamGroup(request, request.beams, self._scheduler.slots.fork, deliver, deadline_s)
        return SampledSequence(request, deliver, deadline_s, self._wake)

    def _cancel(self, sequence: TokenSequence) -> None:
        sequence.cancel()
        self._wake()

    def _admit(self, job: TokenSequence, adapter: Adapter | None) -> None:
        for member in job.group:
            member.begin(adapter)
        if adapter is not None and (misfit := job.misfit(self.context, self.signature.vocab_size)):
            self._registry.give_back(adapter)
            job.fail(PtuneError(f"adapter {adapter.name!r} was replaced by one with {misfit}"))
            return
        self._scheduler.submit(job)

    def _jobs(self) -> tuple[TokenSequence, ...]:
        return (*self._scheduler.running, *self._scheduler.waiting)

    def _take_ended(self) -> list[TokenSequence]:
        return self._scheduler.drop_ended()

    def _free(self) -> None:
        vars(self).pop("_step", None)  # nothing computes any more
        self.tower = None
        if self._idle is not None:
            if self._defect is None:  # else slots may not hold what they seem to
                self._scheduler.slots.leave_all()
            self._idle.folder.close()
            self._idle = None
        for slot in range(self._cache.slots):
            self._drafts.cut(slot, 0)
        self._cache.free()
        self._drafts.free()

    @property
    def _busy(self) -> bool:
        return self._scheduler.busy

    def _next_batch(self) -> list[Chunk]:
        taken_up = [sequence.take_up() for sequence in self._scheduler.running]
        if any(taken_up):
            self._leave()
        chunks, running = self._scheduler.plan(), self._scheduler.running
        self._stalled = not chunks and bool(running) and all(one.sits_out for one in running)
        return chunks

    def _compute(self, batch: list[Chunk]) -> None:
        """Computes one step and passes each chunk's logits to its sequence."""
        self.metrics.on_first_step(chunk.sequence for chunk in batch)
        try:
            with self.metrics.step(len(batch)):
                began_s = time.perf_counter()
                batch = self._drafts.added_to(batch)
                started_s = time.perf_counter()
                logits = self._step(batch)
                ended_s = time.perf_counter()
        except Exception as error:
            with self._changed:
                lost = self._scheduler.invalidate_cache()
            for sequence in {*(chunk.sequence for chunk in batch), *lost}:
                _fail(sequence, error)
        else:
            self._steps += 1
            self._tokens += sum(map(len, batch))
            self._scheduler.computed(batch, ended_s - started_s)
            for chunk, wanted in zip(batch, logits, strict=True):
                try:
                    chunk.sequence.take(chunk, wanted)
                except Exception as error:
                    _fail(chunk.sequence, error)
            self._drafts.took(batch, ended_s - began_s)
        self._leave()

    def _leave(self) -> None:
        """Takes the sequences that have finished out of the batch."""
        with self._changed:
            finished = [sequence for sequence in self._scheduler.running if sequence.finished]
            self._scheduler.release(finished)
            self._release(finished)


def _fail(sequence: TokenSequence, error: Exception) -> None:
    """Ends a sequence; the content that a failed step may have left in its slot is not reused."""
    sequence.cached = 0
    sequence.fail(not_computed(error))
