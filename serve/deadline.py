"""How long an answer may take: `x-request-timeout`, in seconds.

A header and no field of the body, so that a gateway can set it for its clients, and that it is not taken for the `timeout` with
which OpenAI's clients limit their own patience.
"""

from __future__ import annotations

import math

from fastapi import Request

from ptune.errors import RequestError

HEADER = "x-request-timeout"


def deadline_s(request: Request) -> float | None:
    """Seconds that a request may take; None = any time. Raises: RequestError (400)."""
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
