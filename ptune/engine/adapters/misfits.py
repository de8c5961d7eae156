"""Everything about an adapter that does not fit, collected for one error."""

from __future__ import annotations

from ptune.errors import AdapterError


class Misfits:
    """Collects the faults of an adapter: each reason once, with the names it concerns."""

    def __init__(self, reasons: list[str]) -> None:
        self._names: dict[str, list[str]] = {reason: [] for reason in reasons}

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def raise_for(self, place: str, asked: str = "served") -> None:
        """Raises: AdapterError that lists all faults, if there are any. place: where it is. asked: what cannot be done with it."""
        if self._names:
            lines = "".join(f"\n  - {reason}{_listed(names)}" for reason, names in self._names.items())
            raise AdapterError(f"the adapter {place} cannot be {asked}:{lines}")


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f": {', '.join(names[:most])}{more}" if names else ""
