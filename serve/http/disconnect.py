"""Ends work that nobody waits for any longer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

Result = TypeVar("Result")


async def until_disconnect(http: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits `work`, and cancels it if the client disconnects first. Raises: ClientDisconnect."""
    working = asyncio.ensure_future(work)
    disconnecting = asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        disconnecting.cancel()


async def _disconnect(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
