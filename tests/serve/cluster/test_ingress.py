"""What the ingress sends where a replica dies, at each point of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from ptune.errors import RequestError
from ptune_serve.cluster.ingress import Ingress
from ptune_serve.cluster.tunnel import End, Part, Refusal, Start

JSON = Start(200, [(b"content-type", b"application/json")])
EVENTS = Start(200, [(b"content-type", b"text/event-stream")])


class Dying:
    """In place of Ray's handle of the replicas: the first dies after `parts`, the next one answers."""

    def __init__(self, *parts: Part) -> None:
        self.parts, self.asked = parts, 0

    def options(self, **_: Any) -> Dying:
        return self

    def remote(self, *_: Any) -> Answer:
        self.asked += 1
        return Answer(self.parts if self.asked == 1 else (JSON, End(b"another's")), dies=self.asked == 1)


class Guarded:
    """In place of Ray's handle of replicas, which know no key: what they were asked."""

    def __init__(self, refusal: Refusal | None) -> None:
        self.refusal, self.asked = refusal, list[str]()

    def options(self, method_name: str, **_: Any) -> Any:
        return SimpleNamespace(remote=partial(self._remote, method_name))

    def _remote(self, method: str, *_: Any) -> Any:
        self.asked.append(method)
        if method == "answer":
            return Answer((JSON, End(b"answered")), dies=False)
        return asyncio.sleep(0, self.refusal)


class Answer:
    def __init__(self, parts: tuple[Part, ...], dies: bool) -> None:
        self.parts, self.dies, self.cancelled = parts, dies, False

    async def __aiter__(self) -> AsyncGenerator[Part, None]:
        for part in self.parts:
            yield part
        if self.dies:
            raise RayActorError

    def cancel(self) -> None:
        self.cancelled = True


def sent(replicas: Dying) -> bytes:
    """The body that a client gets. Raises: RequestError where the connection breaks off."""
    messages: list[Any] = []

    async def ask() -> None:
        unread = [{"type": "http.request", "body": b"{}"}]

        async def receive() -> Any:
            return unread.pop() if unread else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            messages.append(message)

        app: Any = Ingress(replicas, None, 100).__serve_build_asgi_app__()
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
        await app(scope, receive, send)

    asyncio.run(ask())
    assert [message["type"] for message in messages].count("http.response.start") == 1
    assert [message.get("more_body") for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    return b"".join(message["body"] for message in messages[1:])


@pytest.mark.parametrize("parts", [(), (JSON,)])
def test_an_answer_that_has_not_begun_comes_from_another(parts: tuple[Part, ...]) -> None:
    replicas = Dying(*parts)
    assert sent(replicas) == b"another's"
    assert replicas.asked == 2


@pytest.mark.parametrize("parts", [(JSON, End(b"whole")), (EVENTS, b"wh", b"ole", End(b""))])
def test_an_answer_that_is_whole_has_lost_nothing(parts: tuple[Part, ...]) -> None:
    replicas = Dying(*parts)
    assert sent(replicas) == b"whole"
    assert replicas.asked == 1


def test_a_stream_that_has_begun_ends_with_an_error() -> None:
    body = sent(Dying(EVENTS, b"data: {}\n\n"))
    assert body.startswith(b"data: {}\n\ndata: ")
    assert b"replica_lost" in body


def test_anything_else_that_has_begun_breaks_off() -> None:
    with pytest.raises(RequestError, match="was lost"):
        sent(Dying(JSON, b"{"))


MOST_BYTES = 2**20
CHUNK = b"x" * 2**14


def uploaded(replicas: Guarded, size: int, *, declared: bool) -> tuple[int, int]:
    """The status that a body of so many bytes gets, and how many of them were read. declared: its length is said first."""
    read, statuses = [0], list[int]()

    async def receive() -> Any:
        if read[0] and read[0] >= size:  # the client waits for its answer
            await asyncio.Event().wait()
        read[0] += len(CHUNK)
        return {"type": "http.request", "body": CHUNK, "more_body": read[0] < size}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"content-length", str(size).encode())] if declared else []
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    app: Any = Ingress(replicas, None, MOST_BYTES).__serve_build_asgi_app__()
    asyncio.run(app(scope, receive, send))
    return statuses[0], read[0]


@pytest.mark.parametrize("declared", [True, False])
def test_of_a_stranger_no_long_body_is_read(declared: bool) -> None:
    stranger = Guarded(("this API key is not known here", "invalid_api_key", 401))
    status, read = uploaded(stranger, MOST_BYTES, declared=declared)
    assert status == 401
    assert read <= (0 if declared else 2**16 + len(CHUNK))
    assert stranger.asked == ["refusal"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_known_key_may_send_what_fits_and_no_more(declared: bool) -> None:
    known = Guarded(None)
    assert uploaded(known, MOST_BYTES, declared=declared) == (200, MOST_BYTES)
    assert known.asked == ["refusal", "answer"]
    status, read = uploaded(known, 4 * MOST_BYTES, declared=declared)
    assert status == 413
    assert read <= (0 if declared else MOST_BYTES + len(CHUNK))


def test_a_short_body_costs_no_question() -> None:
    known = Guarded(None)
    assert uploaded(known, len(CHUNK), declared=True) == (200, len(CHUNK))
    assert known.asked == ["answer"]
