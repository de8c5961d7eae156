"""Responses that are kept in memory for their own key, to be read again and gone on from; and those in progress.

Bounded: by age, by their number for each key, and by all their bytes. Where those are used up, the oldest response of the
key that holds most of them goes first, so that nobody's storing costs others theirs. A restart forgets all.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

from pydantic import BaseModel

MAX_RESPONSES = 1000
"""Of one key."""
MAX_AGE_S = 24 * 60 * 60.0


class ResponseInProgress(Protocol):
    """A response that is being written."""

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""

    def now(self) -> dict[str, Any]:
        """The response as it is now."""

    def cancel(self) -> dict[str, Any]:
        """Ends it where it is, and returns it."""


@dataclass(frozen=True)
class StoredResponse:
    """A response, as JSON: objects would take several times the memory that is counted."""

    response_json: bytes
    items_json: bytes
    stored_s: float

    @property
    def size_bytes(self) -> int:
        return len(self.response_json) + len(self.items_json)

    @property
    def response(self) -> dict[str, Any]:
        """The response as it was sent."""
        response: dict[str, Any] = json.loads(self.response_json)
        return response

    @property
    def items(self) -> list[dict[str, Any]]:
        """The whole conversation up to the response's end, without instructions."""
        items: list[dict[str, Any]] = json.loads(self.items_json)
        return items


class ResponseStore:
    """The responses of all keys. max_bytes: of all together, as JSON; 0 = nothing is kept."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._stored: dict[str, OrderedDict[str, StoredResponse]] = {}  # by key and id, oldest first
        self._bytes: dict[str, int] = {}  # by key
        # Weak: a reply leads to its engine, which may be closed as soon as nothing is written any more.
        self._running: WeakValueDictionary[tuple[str, str], ResponseInProgress] = WeakValueDictionary()

    def keep(self, key: str, response: dict[str, Any], items: Sequence[BaseModel]) -> bool:
        """Keeps a response and the conversation up to its end; whether it fits."""
        sent = [item.model_dump(exclude_none=True) for item in items]
        stored = StoredResponse(_json(response), _json(sent), self._clock())
        if stored.size_bytes > self._max_bytes:
            return False
        of_key = self._stored.setdefault(key, OrderedDict())
        of_key[response["id"]] = stored
        self._bytes[key] = self._bytes.get(key, 0) + stored.size_bytes
        self._expire()
        while len(of_key) > MAX_RESPONSES:
            self._drop_oldest(key)
        while sum(self._bytes.values()) > self._max_bytes:
            self._drop_oldest(max(self._bytes, key=self._bytes.__getitem__))
        return response["id"] in of_key

    def find(self, key: str, response_id: str) -> StoredResponse | None:
        """A response that this key has stored and that is still kept."""
        self._expire()
        of_key = self._stored.get(key)
        return None if of_key is None else of_key.get(response_id)

    def forget(self, key: str, response_id: str) -> bool:
        """Forgets a response; whether it was there."""
        self._expire()
        if key not in self._stored or response_id not in self._stored[key]:
            return False
        self._account(key, self._stored[key].pop(response_id))
        return True

    def begin(self, key: str, response_id: str, reply: ResponseInProgress) -> None:
        """Makes a response that is about to be written known to its key."""
        self._running[key, response_id] = reply

    def in_progress(self, key: str, response_id: str) -> ResponseInProgress | None:
        """A response of this key that is being written."""
        reply = self._running.get((key, response_id))
        return None if reply is None or reply.over else reply

    def _expire(self) -> None:
        end_s = self._clock() - MAX_AGE_S
        for key in list(self._stored):
            while key in self._stored and next(iter(self._stored[key].values())).stored_s < end_s:
                self._drop_oldest(key)

    def _drop_oldest(self, key: str) -> None:
        _, dropped = self._stored[key].popitem(last=False)
        self._account(key, dropped)

    def _account(self, key: str, dropped: StoredResponse) -> None:
        self._bytes[key] -= dropped.size_bytes
        if not self._stored[key]:
            del self._stored[key], self._bytes[key]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
