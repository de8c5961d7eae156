"""The bridge from the engine's thread to the event loop: one HTTP call's sequences, as text, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.job import Finish
from ptune.errors import RequestError
from ptune.formats.bundle import BASE
from ptune.tasks.chat.infer import Delta, TextStream

from .errors import engine_failed, shutting_down

if TYPE_CHECKING:
    from ptune.engine.decoder.ticket import Ticket

    from .service import ChatService


@dataclass
class Finished:
    """A whole sequence."""

    prompt: list[Token] = field(default_factory=list)  # only where their log-probabilities were asked for
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish: Finish = "length"

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


@dataclass
class _Running:
    """A sequence on its way."""

    request: Request
    ticket: Ticket
    text: TextStream
    began_s: float  # when it was submitted
    heard_s: float  # when its newest token came, at first as began_s
    tokens: int = 0
    ended: bool = False


class Generation:
    """The sequences of one HTTP call. What waits between the two threads is bounded by their `max_tokens`.

    choices: so many neighbouring requests have one prompt. shown: special tokens that are written out.
    """

    def __init__(
        self,
        service: ChatService,
        requests: Sequence[Request],
        stop: Sequence[str],
        *,
        choices: int = 1,
        shown: Collection[int] = frozenset(),
    ) -> None:
        self.requests = requests
        self._service = service
        self._stop = stop
        self.choices = choices
        self._shown = shown
        self._arrived: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        self._running: list[_Running] = []

    def most_tokens(self) -> int:
        """What it can come to, prompts included; of choices that have one prompt it counts once."""
        prompts = sum(len(request.prompt) for request in self.requests[:: self.choices])
        return prompts + sum(request.max_tokens for request in self.requests)

    def start(self) -> None:
        """Submits all sequences, or none. Raises: RequestError, with status 429 where the queue is full."""
        model, loop = self._service.model, asyncio.get_running_loop()
        self._service.running.add(self)
        try:
            for index, request in enumerate(self.requests):
                codec = model.codec_for(request.adapter)
                text, now_s = TextStream(codec, self._stop, self._shown), time.perf_counter()
                ticket = model.engine.submit(request, partial(self._deliver, loop, index))
                self._running.append(_Running(request, ticket, text, now_s, now_s))
        except BaseException:
            self.close()
            raise
        for request in self.requests:
            metrics = self._service.metrics
            metrics.prompt_tokens.labels(metrics.label(request.adapter)).inc(len(request.prompt))

    def close(self) -> None:
        """Cancels what still runs. Only the first call does something."""
        if self not in self._service.running:
            return
        self._service.running.remove(self)
        for running in self._running:
            if not running.ended:
                running.ticket.cancel()
                self._tell(running, "cancelled")

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yields (sequence, delta) until each sequence has had one with `finish`.

        Raises: RequestError, with status 500 or 503 where the engine gave a sequence up.
        """
        while not all(running.ended for running in self._running):
            index, token = await self._arrived.get()
            running = self._running[index]
            if running.ended:
                continue  # the engine was a step ahead of a stop text
            if not token.prompt and token.id != NO_TOKEN:
                self._measure(running)
            if token.finish == "cancelled":
                raise shutting_down()
            if token.finish == "error":
                self._end(running, "error")
                raise token.refusal or self._failure(running.request.adapter)
            for delta in running.text.push(token):
                if delta.finish is not None:
                    self._end(running, delta.finish)
                yield index, delta

    def stop(self, index: int) -> None:
        """Ends a sequence that has said all that counts."""
        self._end(self._running[index], "stop")

    async def finished(self) -> list[Finished]:
        """Waits for all sequences. Raises: as `deltas`."""
        sequences = [Finished() for _ in self.requests]
        async for index, delta in self.deltas():
            sequence = sequences[index]
            sequence.text += delta.text
            sequence.finish = delta.finish or sequence.finish
            if delta.token is not None and delta.token.id != NO_TOKEN:
                (sequence.prompt if delta.token.prompt else sequence.tokens).append(delta.token)
        return sequences

    def usage(self) -> dict[str, int]:
        """OpenAI's count of tokens, as of now."""
        prompt = sum(len(request.prompt) for request in self.requests[:: self.choices])
        generated = sum(running.tokens for running in self._running)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    def _failure(self, adapter: str) -> RequestError:
        """Why the engine gave a sequence up: nobody's fault where its adapter was removed while it waited for it."""
        if adapter != BASE and adapter not in self._service.model.engine.adapters:
            message = f"adapter {adapter!r} was removed before this was answered"
            return RequestError(message, param="model", code="model_not_found", status=404)
        return engine_failed()

    def _deliver(self, loop: asyncio.AbstractEventLoop, index: int, token: Token) -> None:
        """Runs on the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear it
            loop.call_soon_threadsafe(self._arrived.put_nowait, (index, token))

    def _end(self, running: _Running, finish: Finish) -> None:
        running.ended = True
        running.ticket.cancel()  # the engine knows nothing of stop texts
        self._tell(running, finish)

    def _tell(self, running: _Running, finish: Finish) -> None:
        seconds = time.perf_counter() - running.began_s
        self._service.metrics.ended(running.request.adapter, finish, seconds)

    def _measure(self, running: _Running) -> None:
        metrics, now_s = self._service.metrics, time.perf_counter()
        adapter = metrics.label(running.request.adapter)
        histogram = metrics.between_tokens_s if running.tokens else metrics.first_token_s
        histogram.labels(adapter).observe(now_s - running.heard_s)
        metrics.generated_tokens.labels(adapter).inc()
        running.tokens += 1
        running.heard_s = now_s
