"""Names of adapters as labels of metrics: each label makes series of its own, so there is an end to how many there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress

MOST = 100
OTHER = "other"


class AdapterLabels:
    """The first `MOST` adapters are counted by name, the others together; those that were removed make room.

    served: the adapters that there are. forget: takes what was counted under a name out of the metrics.
    """

    def __init__(self, served: Callable[[], Collection[str]], forget: Callable[[str], None]) -> None:
        self._served, self._forget = served, forget
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def of(self, adapter: str) -> str:
        """The label of an adapter, or of the base."""
        with self._lock:
            if adapter not in self._named:
                if len(self._named) >= MOST and not self._make_room():
                    return OTHER
                self._named.add(adapter)
            return adapter

    def _make_room(self) -> bool:
        gone = self._named - {"base", *self._served()}
        for adapter in gone:
            with suppress(KeyError):
                self._forget(adapter)
        self._named -= gone
        return bool(gone)
