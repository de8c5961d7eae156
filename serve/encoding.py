"""The bridge from the encoder's thread to the event loop: the inputs of one HTTP call, submitted and awaited together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ptune.errors import PtuneError, RequestError

from .errors import engine_failed, shutting_down
from .reply import unless_gone
from .service import EncoderService
from .usage import check_permitted, metered

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Submitted(Generic[Answer]):
    """An input that is in the engine's queue."""

    future: Future[Answer]
    tokens: int = 0  # that the model reads; of an image none
    truncated: bool = False  # it was longer


Submit = Callable[[], Submitted[Answer]]
"""Decodes, tokenises and queues one input."""
AT_ONCE = 128
"""Inputs of one call that are in the engine's queue together: a long call does not fill it."""


class Asking(Protocol):
    """A body that names an adapter."""

    @property
    def model(self) -> str: ...

    @property
    def user(self) -> str | None: ...


def addressed(http: Request, service: EncoderService, body: Asking, endpoint: str) -> AdapterRecord:
    """The adapter that answers. Raises: RequestError: 404 where there is none for this key; 400; 403, as `asked_at`."""
    check_permitted(http, service.catalogue, body.model)
    return service.catalogue.asked_at(body.model, endpoint, body.user or http.state.request_id)


class Encoding(Generic[Answer]):
    """Inputs of one call on their way through the engine."""

    def __init__(self, service: EncoderService) -> None:
        self._service = service
        self.submitted: list[Submitted[Answer]] = []
        self._closed = False

    async def answers(self, submits: Sequence[Submit[Answer]]) -> list[Answer]:
        """Submits all inputs, or none, and waits for their answers.

        Raises: RequestError: 400 for an input that cannot be used, 429 where the queue is full, 503 while the server
        stops, 500 where the engine fails.
        """
        self._service.running.add(self)
        try:
            for start in range(0, len(submits), AT_ONCE):
                part = submits[start : start + AT_ONCE]
                await asyncio.to_thread(self._submit, part, start)  # it decodes and tokenises
                waiting = [asyncio.wrap_future(one.future) for one in self.submitted[start:]]
                await asyncio.gather(
                    *waiting, return_exceptions=True
                )  # which of them failed is looked at below
            return [_answer(one.future) for one in self.submitted]
        finally:
            self.close()

    def usage(self) -> dict[str, int]:
        """The tokens of what was submitted."""
        count = sum(one.tokens for one in self.submitted)
        return {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}

    def close(self) -> None:
        """Gives up what is not done yet. Only the first call does something."""
        self._closed = True
        self._service.running.discard(self)
        for one in self.submitted:
            one.future.cancel()

    def _submit(self, submits: Sequence[Submit[Answer]], start: int) -> None:
        for index, submit in enumerate(submits, start):
            if self._closed:
                raise shutting_down()
            try:
                self.submitted.append(submit())
            except RequestError as error:
                if error.param == "input" and len(submits) + start > 1:
                    place = f"input[{index}]"
                    raise RequestError(
                        f"{place}: {error}", param=place, code=error.code, status=error.status
                    ) from None
                raise
        if self._closed:
            self.close()


def _answer(future: Future[Answer]) -> Answer:
    if future.cancelled():
        raise shutting_down()
    error = future.exception()
    if isinstance(error, RequestError):
        raise error
    if isinstance(error, PtuneError):
        raise engine_failed()
    return future.result()


async def answered(
    http: Request, service: EncoderService, adapter: str, submits: Sequence[Submit[Answer]]
) -> tuple[list[Answer], int]:
    """The answers to the inputs of a call, and how many tokens were read; counts and measures it."""
    encoding = Encoding[Answer](service)
    answers = await _measured(http, service, adapter, encoding, submits)
    return answers, sum(one.tokens for one in encoding.submitted)


async def _measured(
    http: Request,
    service: EncoderService,
    adapter: str,
    encoding: Encoding[Answer],
    submits: Sequence[Submit[Answer]],
) -> list[Answer]:
    endpoint, begun_s, ending = http.url.path, time.perf_counter(), "failed"
    metered(http, encoding.usage)
    try:
        answers = await unless_gone(http, encoding.answers(submits))
        ending = "done"
    except RequestError as error:
        ending = "refused" if error.status < 500 else "failed"
        raise
    except (ClientDisconnect, asyncio.CancelledError):
        ending = "cancelled"
        raise
    finally:
        service.metrics.requests.labels(endpoint, adapter, ending).inc()
        service.metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun_s)
    service.metrics.inputs.labels(endpoint, adapter).inc(len(answers))
    return answers


async def respond(
    http: Request,
    service: EncoderService,
    adapter: str,
    model: str,
    submits: Sequence[Submit[Answer]],
    described: Callable[[Answer], dict[str, Any]],
) -> JSONResponse:
    """Runs the inputs of a call and answers in vLLM's frame."""
    encoding = Encoding[Answer](service)
    answers = await _measured(http, service, adapter, encoding, submits)
    content = {
        "id": f"{http.url.path.rpartition('/')[2]}-{http.state.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [
            {"index": index, **described(answer), **({"truncated": True} if one.truncated else {})}
            for index, (answer, one) in enumerate(zip(answers, encoding.submitted, strict=True))
        ],
        "usage": encoding.usage(),
    }
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(adapter)})
