"""The bridge from an encoder-decoder's thread to the event loop: the texts of one HTTP call, submitted and awaited together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ptune.engine.job import Finish
from ptune.engine.seq2seq.request import Seq2SeqJob, Seq2SeqRequest
from ptune.errors import RequestError

from .errors import engine_failed, shutting_down

if TYPE_CHECKING:
    from .service import Seq2SeqService


@dataclass(frozen=True)
class Translated:
    """What was made of a text."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


class Sentences:
    """The texts of one call on their way through the engine."""

    def __init__(self, service: Seq2SeqService, sentences: Sequence[Seq2SeqRequest]) -> None:
        self._service, self._sentences = service, sentences
        self._tickets: list[Seq2SeqJob] = []

    def most_tokens(self) -> int:
        """What it can come to, sources included."""
        return sum(len(one.source) + one.max_tokens for one in self._sentences)

    def start(self) -> None:
        """Submits all texts, or none. Raises: RequestError, with status 429 where the queue is full."""
        metrics = self._service.metrics
        self._service.running.add(self)
        try:
            for one in self._sentences:
                ticket = self._service.model.engine.submit(one)
                ticket.done.add_done_callback(partial(self._tell, ticket, time.perf_counter()))
                self._tickets.append(ticket)
        except BaseException:
            self.close()
            raise
        for one in self._sentences:
            metrics.prompt_tokens.labels(metrics.label(one.adapter)).inc(len(one.source))

    def close(self) -> None:
        """Cancels what still runs. Only the first call does something."""
        if self in self._service.running:
            self._service.running.remove(self)
            for ticket in self._tickets:
                ticket.cancel()

    async def finished(self) -> list[Translated]:
        """Waits for all texts.

        Raises: RequestError: 404 where the adapter was removed meanwhile, 500 where the engine failed, 503 while the
        server stops and for a deadline that passed.
        """
        waiting = [asyncio.wrap_future(ticket.done) for ticket in self._tickets]
        found = []
        for written in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(written, RequestError):
                raise written
            if isinstance(written, BaseException):
                raise engine_failed()
            if written.finish == "cancelled":
                raise shutting_down()
            text = self._service.model.codec.decode(written.ids)
            found.append(Translated(text, written.ids, written.finish))
        return found

    def usage(self) -> dict[str, int]:
        """OpenAI's count of tokens, as of now."""
        read = sum(len(one.source) for one in self._sentences)
        written = sum(len(ticket.ids) for ticket in self._tickets)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _tell(self, ticket: Seq2SeqJob, began_s: float, _: object) -> None:
        """A text has come to its end. Runs on the engine's thread."""
        metrics, adapter = self._service.metrics, ticket.request.adapter
        finish = "error" if ticket.done.exception() is not None else ticket.done.result().finish
        metrics.generated_tokens.labels(metrics.label(adapter)).inc(len(ticket.ids))
        metrics.ended(adapter, finish, time.perf_counter() - began_s)
