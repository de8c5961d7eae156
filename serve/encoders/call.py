"""One HTTP call's inputs on the encoder's engine: all tokenised, then submitted part by part and awaited together."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ptune.engine.job import BEFORE_COMPUTED as BEFORE
from ptune.engine.job import DEADLINE_EXCEEDED, deadline_passed
from ptune.errors import RequestError

from ..engine_call import EngineCall, Output, result_of
from ..http.context import context_of, lease_of
from ..http.deadline import deadline_s
from ..http.disconnect import until_disconnect
from ..http.errors import shutting_down
from ..service import EncoderService


@dataclass(frozen=True)
class TokenisedInput(Generic[Output]):
    """An input of which nothing is in the engine's queue yet.

    submit: queues it; it fails unless it is computed within so many seconds; None = no limit.
    """

    submit: Callable[[float | None], Future[Output]]
    tokens: int = 0  # that the model reads; 0 for an image
    truncated: bool = False


Tokenise = Callable[[], TokenisedInput[Output]]
"""Tokenises one input. Raises: RequestError where it cannot be used."""
QUEUED_AT_ONCE = 128
"""Most inputs of one call in the engine's queue, so that a long call does not fill it."""


class EncoderCall(EngineCall, Generic[Output]):
    """The inputs of one HTTP call."""

    def __init__(
        self,
        service: EncoderService,
        inputs: Sequence[Tokenise[Output]],
        places: Sequence[str] = (),
        limit_s: float | None = None,
    ) -> None:
        """places: the field of each input, for refusals. limit_s: the time for all inputs together, from now on."""
        super().__init__(service)
        self._inputs = inputs
        self._places = places
        self._limit_s = limit_s
        self._end_s = math.inf if limit_s is None else time.monotonic() + limit_s
        self._futures: list[Future[Output]] = []
        self.tokenised: list[TokenisedInput[Output]] = []

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the inputs submitted so far, but for those that were cancelled before the model read them."""
        submitted = zip(self.tokenised, self._futures, strict=False)
        return sum(entry.tokens for entry, future in submitted if not future.cancelled())

    async def outputs(self, reserve: Callable[[int], Awaitable[None]]) -> list[Output]:
        """Submits all inputs, or none, and waits for their outputs. reserve: takes all their tokens, or refuses.

        Raises: RequestError: 400 for an input that cannot be used, 429 if a limit is reached or the queue is full, 503 if
        the server is shutting down or the time is over, 500 if the engine fails.
        """
        self.start()
        try:
            await asyncio.to_thread(self._tokenise)
            await reserve(sum(entry.tokens for entry in self.tokenised))
            for start in range(0, len(self.tokenised), QUEUED_AT_ONCE):
                await asyncio.to_thread(self._submit, start)
                waiting = [asyncio.wrap_future(future) for future in self._futures[start:]]
                await asyncio.gather(*waiting, return_exceptions=True)  # `result_of` raises
            return [result_of(future) for future in self._futures]
        except RequestError as error:
            if error.code == DEADLINE_EXCEEDED:  # the engine knows only what was left of it
                raise deadline_passed(self._limit_s, BEFORE) from None
            raise
        finally:
            self.close()

    def _submit_all(self) -> None:
        """Does nothing: `outputs` submits the inputs on another thread, as it decodes and tokenises them."""

    def _cancel_all(self) -> None:
        for future in self._futures:
            future.cancel()

    def _tokenise(self) -> None:
        """Runs on another thread, while the event loop may close the call, as does `_submit`."""
        for index, tokenise in enumerate(self._inputs):
            self._left_s()
            with self._placed(index):
                self.tokenised.append(tokenise())

    def _submit(self, start: int) -> None:
        """Submits the inputs of one part."""
        try:
            for index, entry in enumerate(self.tokenised[start : start + QUEUED_AT_ONCE], start):
                left_s = self._left_s()
                with self._placed(index):
                    self._futures.append(entry.submit(left_s))
        finally:
            if self.closed:
                self._cancel_all()

    def _left_s(self) -> float | None:
        """What is left of the time. Raises: RequestError if there is none, or if the call was closed."""
        if self.closed:
            raise shutting_down()
        left_s = None if self._limit_s is None else self._end_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise deadline_passed(self._limit_s, BEFORE)
        return left_s

    @contextmanager
    def _placed(self, index: int) -> Iterator[None]:
        """Has a refusal of an input say which one it is."""
        try:
            yield
        except RequestError as error:
            if error.param != "input" or not (self._places or len(self._inputs) > 1):
                raise
            param = self._places[index] if self._places else f"input[{index}]"
            message = f"{param}: {error}"
            raise RequestError(message, param=param, code=error.code, status=error.status) from None


async def run_encoder(
    http: Request,
    service: EncoderService,
    adapter: str,
    inputs: Sequence[Tokenise[Output]],
    places: Sequence[str] = (),
) -> tuple[list[Output], EncoderCall[Output]]:
    """Reserves the tokens of a call's inputs, runs, bills and measures them. places: as `EncoderCall` has them.

    Raises: RequestError; ClientDisconnect.
    """
    call = EncoderCall(service, inputs, places, deadline_s(http))
    endpoint, started_s, outcome = http.scope["route"].path, time.perf_counter(), "failed"
    context_of(http).call = call
    lease = lease_of(http)
    lease.bill(call.usage)
    try:
        outputs = await until_disconnect(http.receive, call.outputs(lease.reserve))
        outcome = "done"
    except RequestError as error:
        outcome = "refused" if error.status < 500 else "failed"
        raise
    except (ClientDisconnect, asyncio.CancelledError):
        outcome = "cancelled"
        raise
    finally:
        service.metrics.requests.labels(endpoint, adapter, outcome).inc()
        service.metrics.seconds.labels(endpoint).observe(time.perf_counter() - started_s)
    service.metrics.inputs.labels(endpoint, adapter).inc(len(outputs))
    return outputs, call


async def respond_with_list(
    http: Request,
    service: EncoderService,
    adapter: str,
    model: str,
    inputs: Sequence[Tokenise[Output]],
    describe: Callable[[Output], dict[str, Any]],
) -> JSONResponse:
    """Runs the inputs of a call and responds with vLLM's list, one entry an input."""
    outputs, call = await run_encoder(http, service, adapter, inputs)
    content = {
        "id": f"{http.url.path.rpartition('/')[2]}-{context_of(http).request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"index": index, **describe(output), **({"truncated": True} if entry.truncated else {})}
            for index, (output, entry) in enumerate(zip(outputs, call.tokenised, strict=True))
        ],
        "usage": call.usage(),
    }
    return JSONResponse(content)
