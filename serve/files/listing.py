"""Pages of a list, in OpenAI's form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request

from ptune.errors import RequestError

Card = dict[str, Any]


def page_of(http: Request, cards: Sequence[Card], *, most: int, default: int) -> Card:
    """The part of `cards` that a request asks for with `limit` (up to `most`) and `after`, the id of the one before.

    Raises: RequestError(400).
    """
    limit = http.query_params.get("limit", str(default))
    if not (re.fullmatch("[0-9]{1,8}", limit) and 1 <= int(limit) <= most):
        raise _bad("limit", f"must be a number from 1 to {most}", limit)
    after = http.query_params.get("after")
    ids = [card["id"] for card in cards]
    if after is not None and after not in ids:
        raise _bad("after", "must be the id of an entry of this list", after)
    begin = 0 if after is None else ids.index(after) + 1
    data = list(cards[begin : begin + int(limit)])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": begin + len(data) < len(cards),
    }


def word_of(http: Request, name: str, words: Sequence[str]) -> str:
    """A parameter that is one of these words; the first if it is not there. Raises: RequestError(400)."""
    word = http.query_params.get(name, words[0])
    if word not in words:
        raise _bad(name, f"must be {' or '.join(words)}", word)
    return word


def check_names(fields: Mapping[str, Any], *known: str) -> None:
    """Raises: RequestError(400) for a field or parameter that is not known."""
    for name in fields:
        if name not in known:
            message = f"{name[:40]}: there is no such field; known here: {', '.join(known)}"
            raise RequestError(message, param=name[:40], code="unknown_parameter")


def _bad(name: str, rule: str, value: str) -> RequestError:
    return RequestError(f"{name}: {rule} (is {value[:40]!r})", param=name, code="invalid_value")
