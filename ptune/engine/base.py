"""What all engines have in common: their adapters, which come and go (the registry does it), and how options are checked."""

from __future__ import annotations

from typing import Any

from ptune.engine.adapters.registry import AdapterStats, Registry
from ptune.errors import UsageError
from ptune.formats.bundle import AdapterRecord, Bundle


def check_counts(**counts: int) -> None:
    """Raises: UsageError where an engine's option is less than 1."""
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name} must be 1 or more (is {value})")


class EngineBase:
    """An engine with a registry. All methods may be called from any thread."""

    _registry: Registry[Any]

    @property
    def bundle(self) -> Bundle:
        """As it was when an adapter was loaded last, or `refresh` was called."""
        return self._registry.bundle

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters, in memory or not; the base is always there and not among them."""
        return self._registry.names

    @property
    def in_memory(self) -> list[str]:
        """Names of the adapters that are in memory."""
        return self._registry.in_memory

    def record(self, name: str) -> AdapterRecord | None:
        """What an adapter says of itself; None = the base. Raises: RequestError, 404, where there is none."""
        return self._registry.record(name)

    def adapter_stats(self) -> AdapterStats:
        return self._registry.stats()

    def refresh(self) -> None:
        """Reads the bundle's manifest again. Raises: FormatError."""
        self._registry.refresh()

    def load_adapter(self, name: str) -> None:
        """Loads an adapter of the bundle, also one that was added to it since; a loaded one is replaced.

        Raises: FormatError where the bundle has none or its files are damaged; AdapterError where it does not fit.
        """
        self._registry.load(name)

    def drop_adapter(self, name: str) -> None:
        """Takes no more requests for an adapter; those that are there finish. Raises: RequestError, 404."""
        self._registry.drop(name)
