"""One HTTP call's inputs on the encoder's engine: submitted part by part, awaited together."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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
class SubmittedInput(Generic[Output]):
    """An input in the engine's queue."""

    future: Future[Output]
    tokens: int = 0  # that the model reads; 0 for an image
    truncated: bool = False


Submit = Callable[[float | None], SubmittedInput[Output]]
"""Decodes, tokenises and queues one input, which fails unless it is computed within so many seconds; None = no limit."""
QUEUED_AT_ONCE = 128
"""Most inputs of one call in the engine's queue, so that a long call does not fill it."""


class EncoderCall(EngineCall, Generic[Output]):
    """The inputs of one HTTP call."""

    def __init__(
        self, service: EncoderService, submits: Sequence[Submit[Output]], limit_s: float | None = None
    ) -> None:
        """limit_s: the time for all inputs together, from now on."""
        super().__init__(service)
        self._submits = submits
        self._limit_s = limit_s
        self._end_s = math.inf if limit_s is None else time.monotonic() + limit_s
        self.submitted: list[SubmittedInput[Output]] = []

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the inputs submitted so far, but for those that were cancelled before the model read them."""
        return sum(entry.tokens for entry in self.submitted if not entry.future.cancelled())

    async def outputs(self) -> list[Output]:
        """Submits all inputs, or none, and waits for their outputs.

        Raises: RequestError: 400 for an input that cannot be used, 429 if the queue is full, 503 if the server is
        shutting down or the time is over, 500 if the engine fails.
        """
        self.start()
        try:
            for start in range(0, len(self._submits), QUEUED_AT_ONCE):
                await asyncio.to_thread(self._submit, start)
                waiting = [asyncio.wrap_future(entry.future) for entry in self.submitted[start:]]
                await asyncio.gather(*waiting, return_exceptions=True)  # `result_of` raises
            return [result_of(entry.future) for entry in self.submitted]
        except RequestError as error:
            if error.code == DEADLINE_EXCEEDED:  # the engine knows only what was left of it
                raise deadline_passed(self._limit_s, BEFORE) from None
            raise
        finally:
            self.close()

    def _submit_all(self) -> None:
        """Does nothing: `outputs` submits the inputs on another thread, as it decodes and tokenises them."""

    def _cancel_all(self) -> None:
        for entry in self.submitted:
            entry.future.cancel()

    def _submit(self, start: int) -> None:
        """Submits the inputs of one part. Runs on another thread, while the event loop may close the call."""
        try:
            for index in range(start, min(start + QUEUED_AT_ONCE, len(self._submits))):
                if self.closed:
                    raise shutting_down()
                self.submitted.append(self._submit_one(index))
        finally:
            if self.closed:
                self._cancel_all()

    def _submit_one(self, index: int) -> SubmittedInput[Output]:
        left_s = None if self._limit_s is None else self._end_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise deadline_passed(self._limit_s, BEFORE)
        try:
            return self._submits[index](left_s)
        except RequestError as error:
            if error.param == "input" and len(self._submits) > 1:
                param = f"input[{index}]"
                message = f"{param}: {error}"
                raise RequestError(message, param=param, code=error.code, status=error.status) from None
            raise


async def run_encoder(
    http: Request, service: EncoderService, adapter: str, submits: Sequence[Submit[Output]]
) -> tuple[list[Output], EncoderCall[Output]]:
    """Runs the inputs of a call, bills and measures them. Raises: RequestError; ClientDisconnect."""
    call = EncoderCall(service, submits, deadline_s(http))
    endpoint, started_s, outcome = http.scope["route"].path, time.perf_counter(), "failed"
    context_of(http).call = call
    lease_of(http).bill(call.usage)
    try:
        outputs = await until_disconnect(http.receive, call.outputs())
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
    submits: Sequence[Submit[Output]],
    describe: Callable[[Output], dict[str, Any]],
) -> JSONResponse:
    """Runs the inputs of a call and responds with vLLM's list, one entry an input."""
    outputs, call = await run_encoder(http, service, adapter, submits)
    content = {
        "id": f"{http.url.path.rpartition('/')[2]}-{context_of(http).request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"index": index, **describe(output), **({"truncated": True} if entry.truncated else {})}
            for index, (output, entry) in enumerate(zip(outputs, call.submitted, strict=True))
        ],
        "usage": call.usage(),
    }
    return JSONResponse(content)
