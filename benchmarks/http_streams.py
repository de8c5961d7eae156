"""Many chat completions at once over HTTP, streamed, with the time of every piece. One thread, and as little work as can be.

The client runs on the cores that the server needs, so it only notes lines and times; what they say is read afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LIMIT_S = 600.0


@dataclass
class Answer:
    """One stream: when its pieces of text came, in seconds after its request was sent, and what it counted."""

    times: list[float]
    prompt_tokens: int
    tokens: int
    text: str
    began_s: float
    ended_s: float


def ask_all(url: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Sends all requests at once, each on a connection of its own. Raises: RuntimeError with what a server refuses."""
    return asyncio.run(_all(url, bodies))


async def ask_one(url: str, body: dict[str, Any]) -> Answer:
    """Sends one request on a connection of its own. Raises: RuntimeError with what the server refuses."""
    async with asyncio.timeout(LIMIT_S):
        return _read(*await _one(url, body))


async def _all(url: str, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    async with asyncio.timeout(LIMIT_S):
        return [_read(*one) for one in await asyncio.gather(*(_one(url, body) for body in bodies))]


async def _one(url: str, body: dict[str, Any]) -> tuple[float, list[tuple[float, bytes]]]:
    place = urlsplit(url)
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    began_s = time.perf_counter()
    writer.write(head.encode() + content)
    lines = []
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{url} answered {status.decode()} {(await reader.read()).decode()[-600:]}")
        while line := await reader.readline():
            if line.startswith(b"data: "):
                lines.append((time.perf_counter(), line))
    finally:
        writer.close()
    return began_s, lines


def _read(began_s: float, lines: Sequence[tuple[float, bytes]]) -> Answer:
    times, text, usage = [], "", None
    for at, line in lines:
        if line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(f"the server's stream failed: {event['error']}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                times.append(at - began_s)
                text += piece
    if usage is None or not times:
        raise RuntimeError(f"a stream ended after {len(lines)} events without its usage")
    return Answer(times, usage["prompt_tokens"], usage["completion_tokens"], text, began_s, lines[-1][0])
