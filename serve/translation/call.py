"""One HTTP call's texts on the engine of an encoder-decoder: submitted together, awaited together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ptune.engine.job import Finish
from ptune.engine.seq2seq.request import Seq2SeqJob, Seq2SeqRequest

from ..engine_call import GenerationCall, result_of
from ..http.errors import shutting_down

if TYPE_CHECKING:
    from ..service import Seq2SeqService


@dataclass(frozen=True)
class GeneratedText:
    """What the model generated from one text."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


class Seq2SeqCall(GenerationCall):
    """The texts of one HTTP call."""

    def __init__(self, service: Seq2SeqService, requests: Sequence[Seq2SeqRequest]) -> None:
        super().__init__(service)
        self._model, self._metrics = service.model, service.metrics
        self._requests = requests
        self._jobs: list[Seq2SeqJob] = []

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.source) for request in self._requests)

    @property
    def generated_tokens(self) -> int:
        return sum(len(job.ids) for job in self._jobs)

    def max_tokens(self) -> int:
        return self.prompt_tokens + sum(request.max_tokens for request in self._requests)

    async def finished(self) -> list[GeneratedText]:
        """Waits for all texts.

        Raises: RequestError: 404 if the adapter was removed meanwhile, 500 if the engine failed, 503 if the server is
        shutting down or a deadline passed.
        """
        waiting = [asyncio.wrap_future(job.done) for job in self._jobs]
        await asyncio.gather(*waiting, return_exceptions=True)  # `result_of` raises
        return [self._text(job) for job in self._jobs]

    def _text(self, job: Seq2SeqJob) -> GeneratedText:
        output = result_of(job.done)
        if output.finish == "cancelled":
            raise shutting_down()
        return GeneratedText(self._model.codec.decode(output.ids), output.ids, output.finish)

    def _submit_all(self) -> None:
        for request in self._requests:
            job = self._model.engine.submit(request)
            job.done.add_done_callback(partial(self._record_end, job, time.perf_counter()))
            self._jobs.append(job)
        for request in self._requests:
            label = self._metrics.label(request.adapter)
            self._metrics.prompt_tokens.labels(label).inc(len(request.source))

    def _cancel_all(self) -> None:
        for job in self._jobs:
            job.cancel()

    def _record_end(self, job: Seq2SeqJob, submitted_s: float, _: object) -> None:
        """Runs on the engine's thread when a text has ended."""
        adapter = job.request.adapter
        finish = "error" if job.done.exception() is not None else job.done.result().finish
        self._metrics.generated_tokens.labels(self._metrics.label(adapter)).inc(len(job.ids))
        self._metrics.ended(adapter, finish, time.perf_counter() - submitted_s)
