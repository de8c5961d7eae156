"""The time limit of a request: the header `x-request-timeout`, in seconds.

It is a header instead of a field so that a gateway can set it for its clients, and because `timeout` in OpenAI's
clients limits only how long the client waits.
"""

from __future__ import annotations

import math

from fastapi import Request

from ptune.errors import RequestError

HEADER = "x-request-timeout"


def deadline_s(request: Request) -> float | None:
    """The time limit of a request in seconds; None = no limit. Raises: RequestError (400)."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        message = f"{HEADER} must be seconds, above 0 (is {given[:40]!r})"
        raise RequestError(message, param=HEADER, code="invalid_value")
    return seconds
