"""LRU cache with a byte limit and reference counts: entries in use, or pinned, are not evicted. No locks, no disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(eq=False)
class _Entry(Generic[Value]):
    value: Value
    bytes: int
    refcount: int = 0
    pinned: bool = False  # never evicted


class AdapterCache(Generic[Value]):
    """Adapters by name, each with its size and its number of users.

    limit_bytes: memory for all of them together; None for no limit.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[str, _Entry[Value]] = OrderedDict()  # least recently used first
        self._retiring: list[_Entry[Value]] = []  # still in use, but given to no new user
        self._reserved_bytes = 0
        self.evicted = 0  # entries that made room for others

    @property
    def names(self) -> list[str]:
        """Names of the entries that `take` finds, least recently used first."""
        return list(self._entries)

    @property
    def bytes(self) -> int:
        """Memory in use, reservations and retiring entries included."""
        entries = (*self._entries.values(), *self._retiring)
        return self._reserved_bytes + sum(entry.bytes for entry in entries)

    def pinned_bytes(self, but: str) -> int:
        """Memory of entries that are never evicted, but for one of this name."""
        return sum(entry.bytes for name, entry in self._entries.items() if entry.pinned and name != but)

    def take(self, name: str) -> Value | None:
        """Gives an entry to one more user, who gives it back; None where it is not in the cache."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        self._entries.move_to_end(name)
        entry.refcount += 1
        return entry.value

    def evict_one_of(self, names: Collection[str]) -> bool:
        """Evicts the least recently used of these that nobody uses. Returns whether there was one."""
        for name, entry in self._entries.items():
            if name in names and not entry.refcount:
                del self._entries[name]
                self.evicted += 1
                return True
        return False

    def give_back(self, value: Value) -> None:
        """Ends one use of what `take` gave."""
        entry = next(entry for entry in (*self._entries.values(), *self._retiring) if entry.value is value)
        entry.refcount -= 1
        if not entry.refcount and entry in self._retiring:
            self._retiring.remove(entry)

    def fits(self, size_bytes: int) -> bool:
        """Whether there is room for an entry of this size now."""
        return self.limit_bytes is None or self.bytes + size_bytes <= self.limit_bytes

    def make_room(self, size_bytes: int, instead_of: str | None = None) -> bool:
        """Evicts entries until one of this size fits, as far as that is possible now. Returns whether it fits.

        instead_of: an entry that the new one will replace.

        Unused entries go first. Where they are not enough, used ones retire, as many as it takes: they get no new
        users, and the caller tries again when one was given back. So nobody waits for ever among busy entries.
        """
        replaced = None if instead_of is None else self._entries.get(instead_of)
        if replaced is not None and not replaced.refcount:
            size_bytes -= replaced.bytes
        movable = {
            name: entry for name, entry in self._entries.items() if not entry.pinned and entry is not replaced
        }
        for name in [name for name, entry in movable.items() if not entry.refcount]:
            if self.fits(size_bytes):
                break
            del self._entries[name]
            self.evicted += 1
        for name in [name for name, entry in movable.items() if entry.refcount]:
            retiring_bytes = sum(entry.bytes for entry in self._retiring)
            if self.fits(size_bytes - retiring_bytes):
                break
            self.drop(name)
            self.evicted += 1
        return self.fits(size_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Counts the memory of an entry that is being read."""
        self._reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Ends a reservation."""
        self._reserved_bytes -= size_bytes

    def put(self, name: str, value: Value, size_bytes: int, *, pinned: bool = False) -> None:
        """Adds an entry for which there is room; one of the same name retires. pinned: it is never evicted."""
        self.drop(name)
        self._entries[name] = _Entry(value, size_bytes, pinned=pinned)

    def drop(self, name: str) -> None:
        """Removes an entry, or retires it until its last user gives it back."""
        entry = self._entries.pop(name, None)
        if entry is not None and entry.refcount:
            self._retiring.append(entry)
