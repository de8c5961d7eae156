"""One HTTP call's sequences on the decoder's engine: submitted together, read as text while they grow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.job import Finish
from ptune.errors import RequestError
from ptune.formats.adapter_sum import parts_of
from ptune.formats.bundle import BASE
from ptune.tasks.chat.text_stream import Delta, TextStream

from ..engine_call import GenerationCall
from ..http.errors import engine_failed, shutting_down

if TYPE_CHECKING:
    from ptune.codecs.reading import Reading
    from ptune.engine.decoder.ticket import Ticket

    from ..service import ChatService


@dataclass
class FinishedSequence:
    """A whole sequence."""

    prompt: list[Token] = field(default_factory=list)  # only if their log-probabilities were requested
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish: Finish = "length"

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


@dataclass
class _RunningSequence:
    request: Request
    ticket: Ticket
    text: TextStream
    submitted_s: float
    last_token_s: float  # when its newest token arrived; submitted_s before the first
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    reasoning_tokens: int = 0
    ended: bool = False


class DecoderCall(GenerationCall):
    """The sequences of one HTTP call. `max_tokens` bounds what is queued between the two threads.

    choices: how many neighbouring requests share one prompt. visible: special tokens that appear in the text.
    after: the token of a text that the answers go on from. reading: how what is thought is told from what is said.
    """

    def __init__(
        self,
        service: ChatService,
        requests: Sequence[Request],
        stop: Sequence[str],
        *,
        choices: int = 1,
        visible: Collection[int] = frozenset(),
        after: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(service)
        self.requests = requests
        self._model, self._metrics = service.model, service.metrics
        self._stop = stop
        self._choices = choices
        self._visible = visible
        self._after = after
        self._reading = reading
        self._tokens: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        self._running: list[_RunningSequence] = []

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts; a prompt with several choices counts once."""
        return sum(len(request.prompt) for request in self.requests[:: self._choices])

    @property
    def generated_tokens(self) -> int:
        return sum(len(running.ids) for running in self._running)

    def answers(self) -> list[dict[str, Any]]:
        """Of each sequence its tokens and how it ended, as of now; None = it has not."""
        return [{"tokens": running.ids, "finish": running.finish} for running in self._running]

    @property
    def reasoning_tokens(self) -> int:
        """Of the generated tokens, those of the reasoning."""
        return sum(running.reasoning_tokens for running in self._running)

    def usage(self) -> dict[str, Any]:
        """As `EngineCall.usage`, with the prompts' tokens that were found in the cache."""
        found = sum(running.ticket.reused for running in self._running[:: self._choices])
        return {**super().usage(), "prompt_tokens_details": {"cached_tokens": found}}

    def max_tokens(self) -> int:
        return self.prompt_tokens + sum(request.max_tokens for request in self.requests)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yields (sequence, delta) until each sequence has had a delta with `finish`.

        Raises: RequestError, with status 500 or 503 if the engine gave up a sequence.
        """
        while not all(running.ended for running in self._running):
            index, token = await self._tokens.get()
            running = self._running[index]
            if running.ended:
                continue  # the engine was a step ahead of a stop text
            if not token.prompt and token.id != NO_TOKEN:
                self._measure(running, token.id)
            if token.finish == "cancelled":
                raise shutting_down()
            if token.finish == "error":
                self._end(running, "error")
                raise token.refusal or self._failure(running.request.adapter)
            for delta in running.text.push(token):
                running.reasoning_tokens += delta.reasoning_tokens
                if delta.finish is not None:
                    self._end(running, delta.finish)
                yield index, delta

    def stop(self, index: int, finish: Finish = "stop") -> None:
        """Ends a sequence whose answer is complete, or as far as it is to go. Only the first end has an effect."""
        if not self._running[index].ended:
            self._end(self._running[index], finish)

    async def finished(self) -> list[FinishedSequence]:
        """Waits for all sequences. Raises: as `deltas`."""
        sequences = [FinishedSequence() for _ in self.requests]
        async for index, delta in self.deltas():
            sequence = sequences[index]
            sequence.text += delta.text
            sequence.finish = delta.finish or sequence.finish
            if delta.token is not None and delta.token.id != NO_TOKEN:
                (sequence.prompt if delta.token.prompt else sequence.tokens).append(delta.token)
        return sequences

    def _submit_all(self) -> None:
        loop = asyncio.get_running_loop()
        for index, request in enumerate(self.requests):
            codec = self._model.codec_for(request.adapter)
            text = TextStream(
                codec,
                self._stop,
                self._visible,
                min_tokens=request.min_tokens,
                after=self._after,
                reading=self._reading,
            )
            now_s = time.perf_counter()
            ticket = self._model.engine.submit(request, partial(self._deliver, loop, index))
            self._running.append(_RunningSequence(request, ticket, text, now_s, now_s))
        for request in self.requests:
            label = self._metrics.label(request.adapter)
            self._metrics.prompt_tokens.labels(label).inc(len(request.prompt))

    def _cancel_all(self) -> None:
        for running in self._running:
            if not running.ended:
                running.ticket.cancel()
                self._record_end(running, "cancelled")

    def _failure(self, adapter: str) -> RequestError:
        """Why the engine gave up a sequence: a 404, not a 500, if its adapter was removed while it waited."""
        if adapter != BASE and not parts_of(adapter, self._model.engine.adapters):
            message = f"adapter {adapter!r} was removed before this was answered"
            return RequestError(message, param="model", code="model_not_found", status=404)
        return engine_failed()

    def _deliver(self, loop: asyncio.AbstractEventLoop, index: int, token: Token) -> None:
        """Runs on the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads the token
            loop.call_soon_threadsafe(self._tokens.put_nowait, (index, token))

    def _end(self, running: _RunningSequence, finish: Finish) -> None:
        running.ended, running.finish = True, finish
        running.ticket.cancel()  # the engine does not know stop texts
        self._record_end(running, finish)

    def _record_end(self, running: _RunningSequence, finish: Finish) -> None:
        self._metrics.ended(running.request.adapter, finish, time.perf_counter() - running.submitted_s)

    def _measure(self, running: _RunningSequence, token: int) -> None:
        now_s, adapter = time.perf_counter(), self._metrics.label(running.request.adapter)
        self.first_token_s = self.first_token_s or now_s
        histogram = self._metrics.between_tokens_s if running.ids else self._metrics.first_token_s
        histogram.labels(adapter).observe(now_s - running.last_token_s)
        self._metrics.generated_tokens.labels(adapter).inc()
        running.ids.append(token)
        running.last_token_s = now_s
