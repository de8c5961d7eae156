"""One HTTP call's texts on the engine of an encoder-decoder: submitted together, awaited together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ptune.engine.seq2seq.request import Finish, Sentence, Ticket

from .engine_call import GenerationCall, result_of
from .errors import shutting_down

if TYPE_CHECKING:
    from .service import Seq2SeqService


@dataclass(frozen=True)
class GeneratedText:
    """What the model generated from one text."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


class Seq2SeqCall(GenerationCall):
    """The texts of one HTTP call."""

    def __init__(self, service: Seq2SeqService, requests: Sequence[Sentence]) -> None:
        super().__init__(service)
        self._model, self._metrics = service.model, service.metrics
        self._requests = requests
        self._tickets: list[Ticket] = []

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.source) for request in self._requests)

    @property
    def generated_tokens(self) -> int:
        return sum(len(ticket.ids) for ticket in self._tickets)

    def max_tokens(self) -> int:
        return self.prompt_tokens + sum(request.max_tokens for request in self._requests)

    async def finished(self) -> list[GeneratedText]:
        """Waits for all texts.

        Raises: RequestError: 404 if the adapter was removed meanwhile, 500 if the engine failed, 503 if the server is
        shutting down or a deadline passed.
        """
        waiting = [asyncio.wrap_future(ticket.done) for ticket in self._tickets]
        await asyncio.gather(*waiting, return_exceptions=True)  # `result_of` raises
        return [self._text(ticket) for ticket in self._tickets]

    def _text(self, ticket: Ticket) -> GeneratedText:
        output = result_of(ticket.done)
        if output.finish == "cancelled":
            raise shutting_down()
        return GeneratedText(self._model.codec.decode(output.ids), output.ids, output.finish)

    def _submit_all(self) -> None:
        for request in self._requests:
            ticket = self._model.engine.submit(request)
            ticket.done.add_done_callback(partial(self._record_end, ticket, time.perf_counter()))
            self._tickets.append(ticket)
        for request in self._requests:
            label = self._metrics.label(request.adapter)
            self._metrics.prompt_tokens.labels(label).inc(len(request.source))

    def _cancel_all(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def _record_end(self, ticket: Ticket, submitted_s: float, _: object) -> None:
        """Runs on the engine's thread when a text has ended."""
        adapter = ticket.sentence.adapter
        finish = "error" if ticket.done.exception() is not None else ticket.done.result().finish
        self._metrics.generated_tokens.labels(self._metrics.label(adapter)).inc(len(ticket.ids))
        self._metrics.ended(adapter, finish, time.perf_counter() - submitted_s)
