"""An ASGI app's answer as a generator: the same bytes, and a closed generator is a client that has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ptune_serve.cluster.tunnel import End, Start, answered, portable

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/echo",
    "headers": [(b"a", b"b")],
    "query_string": b"",
}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 201, "headers": [(b"path", scope["path"].encode())]})
    for byte in body:
        await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def test_the_answer_comes_in_the_pieces_in_which_it_was_sent() -> None:
    async def all_parts() -> list[Any]:
        return [part async for part in answered(echo, SCOPE, b"abc")]

    assert asyncio.run(all_parts()) == [Start(201, [(b"path", b"/echo")]), b"a", b"b", b"c", End(b"")]


def test_an_app_notices_that_the_client_has_gone() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append((await receive())["type"])

    async def leave() -> None:
        parts = answered(app, SCOPE, b"")
        await anext(parts)
        await parts.aclose()

    asyncio.run(leave())
    assert seen == ["http.disconnect"]


def test_a_failing_app_fails_the_generator() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("broken")

    async def ask() -> None:
        async for _ in answered(app, SCOPE, b""):
            pass

    with pytest.raises(KeyError, match="broken"):
        asyncio.run(ask())


def test_only_plain_values_travel() -> None:
    found = portable({**SCOPE, "app": object(), "state": {}, "headers": [[b"x", bytearray(b"y")]]})
    assert found == {**SCOPE, "headers": [(b"x", b"y")]}
