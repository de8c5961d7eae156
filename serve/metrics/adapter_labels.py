"""Adapter names as labels of metrics, a limited number of them, as each label creates time series."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress

MAX_LABELS = 100
OTHER = "other"


class AdapterLabels:
    """The first `MAX_LABELS` adapters have labels of their own, the others share one; removed adapters free theirs.

    served: returns the served adapters. forget: removes a label from the metrics.
    """

    def __init__(self, served: Callable[[], Collection[str]], forget: Callable[[str], None]) -> None:
        self._served, self._forget = served, forget
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def of(self, adapter: str) -> str:
        """The label of an adapter, or of the base."""
        with self._lock:
            if adapter not in self._named:
                if len(self._named) >= MAX_LABELS and not self._make_room():
                    return OTHER
                self._named.add(adapter)
            return adapter

    def _make_room(self) -> bool:
        removed = self._named - {"base", "sum", *self._served()}
        for adapter in removed:
            with suppress(KeyError):
                self._forget(adapter)
        self._named -= removed
        return bool(removed)
