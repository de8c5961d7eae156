"""What tests ask a server through, and what comes back: over a socket, or without one in the same process.

They are of two libraries, as starlette's client is no longer one of httpx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import httpx
    from starlette.testclient import TestClient

Client: TypeAlias = "httpx.Client | TestClient"


class Response(Protocol):
    """What both have in common, as far as tests look at it."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def text(self) -> str: ...

    def json(self) -> Any: ...
