"""The routes of an app, as the app itself has them: nothing that was added to it is missing."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute


def routes_of(app: FastAPI | APIRouter) -> Iterator[APIRoute]:
    """All routes, of included routers too. FastAPI keeps these as they are since 0.16x, and copied their routes before."""
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            inner = getattr(route, "original_router", None)
            assert isinstance(inner, APIRouter), f"{route!r} is a kind of route that these tests do not know"
            yield from routes_of(inner)
