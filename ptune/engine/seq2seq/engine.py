"""The engine of an encoder-decoder: a source is encoded once, and its target is decoded greedily, token by token.

Requests join and leave between steps; adapters are mixed in every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from ptune.codecs.seq2seq import Writing
from ptune.engine.adapters.lora import Adapter, factor_bytes, load_adapter
from ptune.engine.adapters.stacked import Stack, Stacks
from ptune.engine.base import EngineBase, QueueStats
from ptune.engine.job import not_computed, queue_full
from ptune.engine.onnx_graph import Array
from ptune.engine.options import BatchKeywords, BatchOptions
from ptune.engine.sampling import require_numbers
from ptune.engine.seq2seq.caches import SequenceCaches
from ptune.engine.seq2seq.golden import replay
from ptune.engine.seq2seq.request import Seq2SeqJob, Seq2SeqOutput, Seq2SeqRequest
from ptune.engine.seq2seq.session import Seq2SeqSession
from ptune.errors import PtuneError
from ptune.formats.bundle import Bundle

MOST_ENCODED = 8192  # tokens of sources that are encoded at once, padding included


class Seq2SeqEngine(EngineBase[BatchOptions, Seq2SeqJob, Adapter, list[Seq2SeqJob]]):
    """Serves one bundle's encoder-decoder under all its adapters. Its methods may be called from any thread."""

    def __init__(
        self,
        bundle: Bundle,
        session: Seq2SeqSession,
        writing: Writing,
        options: BatchOptions = BatchOptions(),
    ) -> None:
        self.signature = bundle.seq2seq
        super().__init__(
            bundle,
            options,
            lambda folder, _: load_adapter(folder, self.signature),
            lambda folder, _: factor_bytes(folder),
            base_answers=True,
        )
        self.context = self.signature.context
        self.writing = writing
        self._session, self._stacks = session, Stacks(self.signature)
        self._waiting: deque[Seq2SeqJob] = deque()
        self._joining: list[Seq2SeqJob] = []  # out of the queue, not yet in the caches
        self._active: list[Seq2SeqJob] = []  # one for each row of the caches
        self._caches = SequenceCaches(self.signature)
        self._start()

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        options: BatchOptions = BatchOptions(),
        *,
        replay_golden: bool = True,
        **keywords: Unpack[BatchKeywords],
    ) -> Seq2SeqEngine:
        """Opens a bundle and its adapters, and compares this machine's numbers with the exporter's.

        keywords: options that replace those of `options`.

        Raises: FormatError, AdapterError, UsageError; ParityError where the numbers differ.
        """
        return cls._opened(bundle, replace(options, **keywords), replay_golden=replay_golden)

    @classmethod
    def _build(cls, bundle: Bundle, graph: Path, options: BatchOptions) -> Seq2SeqEngine:
        bundle.check_files(bundle.manifest.codec)
        session = Seq2SeqSession(graph.parent, bundle.seq2seq, options.threads)
        return cls(bundle, session, Writing.open(bundle.codec_path), options)

    def _replay(self, bundle: Bundle, profile: str) -> float:
        return replay(self, bundle)

    def submit(self, request: Seq2SeqRequest) -> Seq2SeqJob:
        """Queues a request.

        Raises: RequestError: 400 where it cannot be served, 404 for an unknown adapter, 429 where the queue is full,
        503 while the engine drains.
        """
        with self._changed:
            job = self._job(request)
            waiting = len(self._waiting) + len(self._pending)
            if waiting >= self._options.max_waiting:
                raise queue_full(waiting)
            self._enqueue(job, request.adapter, len(request.source))
        return job

    def generate(self, requests: Sequence[Seq2SeqRequest]) -> list[Seq2SeqOutput]:
        """Generates many targets in one queue without a bound. Raises: RequestError, as `submit`, but 429; PtuneError."""
        with self._changed:
            jobs = [self._job(request) for request in requests]
            for job in jobs:
                self._enqueue(job, job.request.adapter, len(job.request.source))
        return [job.result() for job in jobs]

    def stats(self) -> QueueStats:
        with self._changed:
            return QueueStats(len(self._active) + len(self._joining), len(self._waiting) + len(self._pending))

    def _job(self, request: Seq2SeqRequest) -> Seq2SeqJob:
        """Makes a job for a request that can be served."""
        self._require_open()
        self._registry.record(request.adapter)
        request.require_servable(self.signature.vocab_size, self.context)
        return Seq2SeqJob(request, self._wake, self._deadline(request.deadline_s))

    def _admit(self, job: Seq2SeqJob, adapter: Adapter | None) -> None:
        job.adapter = adapter
        self._waiting.append(job)

    def _jobs(self) -> tuple[Seq2SeqJob, ...]:
        return (*self._active, *self._waiting)

    def _take_ended(self) -> list[Seq2SeqJob]:
        ended = {job for job in self._jobs() if job.ended}  # once: another thread may cancel meanwhile
        if ended:
            self._waiting = deque(job for job in self._waiting if job not in ended)
            try:
                self._keep([row for row, job in enumerate(self._active) if job not in ended])
            except Exception as error:
                self._lose_batch(error, ended)
        return list(ended)

    def _free(self) -> None:
        vars(self).pop("_session", None)  # nothing computes any more

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._joining or self._active)

    def _next_batch(self) -> list[Seq2SeqJob]:
        """The active jobs, then those that join: in order of arrival, as many as fit into the batch and one encoding."""
        new: list[Seq2SeqJob] = []
        longest = 0
        while self._waiting and len(self._active) + len(new) < self._options.max_rows:
            longest = max(longest, len(self._waiting[0].request.source))
            if new and longest * (len(new) + 1) > MOST_ENCODED:
                break
            new.append(self._waiting.popleft())
        self._joining = new
        return [*self._active, *new]

    def _compute(self, batch: list[Seq2SeqJob]) -> None:
        if self._joining:
            self._join(self._joining)
        if self._active:
            try:
                self._step()
            except Exception as error:
                self._lose_batch(error)

    def _join(self, new: list[Seq2SeqJob]) -> None:
        """Encodes the sources of new jobs. A failure ends these jobs alone."""
        self.metrics.on_first_step(new)
        try:
            lengths = np.array([len(job.request.source) for job in new], np.int64)
            ids = np.zeros((len(new), lengths.max()), np.int64)
            for row, job in enumerate(new):
                ids[row, : lengths[row]] = job.request.source
            stack, lora_mask = self._stacked(new)
            inputs = {"input_ids": ids, "lengths": lengths, "lora_mask": lora_mask}
            with self.metrics.step(len(new)):
                cross = self._session.encode(inputs, stack.inputs)
            self._caches.join(cross, lengths)
        except Exception as error:
            self._joining = []
            self._fail(new, error)
        else:
            self._active, self._joining = [*self._active, *new], []

    def _step(self) -> None:
        """Decodes one token of every active job."""
        start = self.writing.start_id
        newest = np.array([[job.ids[-1] if job.ids else start] for job in self._active], np.int64)
        stack, lora_mask = self._stacked(self._active)
        inputs = {"input_ids": newest, "lora_mask": lora_mask, **self._caches.inputs()}
        with self.metrics.step(len(self._active)):
            logits, new = self._session.decode(inputs, stack.inputs)
        self._caches.append(new)
        rows = enumerate(self._active)
        kept = [row for row, job in rows if not self._ends(job, logits[row, 0])]
        finished = self._keep(kept)
        if finished:
            self._release(finished)

    def _ends(self, job: Seq2SeqJob, logits: Array) -> bool:
        """Gives a job its next token's logits [vocab]; whether it ends by that, as it does where they are not numbers."""
        try:
            require_numbers(logits)
        except PtuneError as error:
            job.fail(not_computed(error))
            return True
        return job.append(logits, self.writing)

    def _keep(self, kept: list[int]) -> list[Seq2SeqJob]:
        """Keeps these rows of the batch, and returns the jobs of the others."""
        if len(kept) == len(self._active):
            return []
        stay = {*kept}
        gone = [job for row, job in enumerate(self._active) if row not in stay]
        self._caches.keep(kept)
        self._active = [self._active[row] for row in kept]
        return gone

    def _stacked(self, jobs: Sequence[Seq2SeqJob]) -> tuple[Stack, Array]:
        """The factors of the jobs' adapters, and the columns of them that each row uses."""
        adapters = [job.adapter for job in jobs]
        stack = self._stacks.of({adapter for adapter in adapters if adapter is not None})
        return stack, stack.lora_mask(adapters)

    def _lose_batch(self, error: Exception, ended: Collection[Seq2SeqJob] = ()) -> None:
        """Fails the active jobs but those that have ended: the caches are not to be trusted, and nobody must wait for ever."""
        lost = [job for job in self._active if job not in ended]
        self._active, self._caches = [], SequenceCaches(self.signature)
        self._fail(lost, error)

    def _fail(self, jobs: Sequence[Seq2SeqJob], error: Exception) -> None:
        """Ends the jobs of a step that failed."""
        failure = not_computed(error)
        for job in jobs:
            job.fail(failure)
        self._release(jobs)
