"""Rows on their way into the scheduler's queue: whoever needs an adapter that is being read waits beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial

from ptune.engine.adapters.lora import Adapter
from ptune.engine.adapters.registry import Registry
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import TokenSequence
from ptune.errors import PtuneError
from ptune.formats.bundle import BASE


class PendingAdapters:
    """In order of arrival; nobody else waits for an adapter. All methods are called under the engine's lock."""

    def __init__(
        self, scheduler: Scheduler, registry: Registry[Adapter], changed: threading.Condition
    ) -> None:
        self._scheduler, self._registry, self._changed = scheduler, registry, changed
        self._rows: dict[TokenSequence, None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TokenSequence]:
        return iter(self._rows)

    def waiting(self, tenant: str) -> int:
        """How many rows of a tenant wait here."""
        return sum(row.tenant == tenant for row in self._rows)

    def enter(self, row: TokenSequence, adapter: str) -> None:
        """Puts a row of a known adapter into the queue, as soon as that is in memory."""
        if adapter == BASE:
            self._scheduler.submit(row)
        else:
            self._rows[row] = None
            self._registry.take(adapter, partial(self._arrived, row))
        self._changed.notify_all()

    def drop_over(self) -> list[TokenSequence]:
        """Takes out the rows that were given up, and returns them."""
        dropped = [row for row in self._rows if row.over]
        for row in dropped:
            del self._rows[row]
        return dropped

    def left(self, rows: Sequence[TokenSequence]) -> None:
        """Gives back the adapters of rows that are out of the scheduler."""
        for row in rows:
            if row.adapter is not None:
                self._registry.give_back(row.adapter)

    def _arrived(self, row: TokenSequence, found: Adapter | PtuneError) -> None:
        """A row's adapter is in memory, or cannot be."""
        expected = row in self._rows
        self._rows.pop(row, None)
        if isinstance(found, PtuneError):
            if expected:
                row.end("error", str(found))
        elif expected:
            for member in row.rows:
                member.adapter = found
            self._scheduler.submit(row)
        else:  # it was given up meanwhile
            self._registry.give_back(found)
        self._changed.notify_all()
