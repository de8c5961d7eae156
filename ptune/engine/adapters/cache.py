"""What is in memory within a limit: the least recently used goes first, and nothing while it is used. No locks, no disk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Held = TypeVar("Held")


@dataclass(eq=False)
class _Place(Generic[Held]):
    held: Held
    bytes: int
    users: int = 0


class AdapterCache(Generic[Held]):
    """Objects by name, each with its size and the number of those who use it just now.

    limit_bytes: what all of them may take together; None = no limit.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._places: OrderedDict[str, _Place[Held]] = OrderedDict()  # least recently used first
        self._leaving: list[_Place[Held]] = []  # used still, and given to nobody any more
        self._reserved_bytes = 0
        self.evicted = 0  # objects that made room for others

    @property
    def names(self) -> list[str]:
        """Of what can be had at once, least recently used first."""
        return list(self._places)

    @property
    def bytes(self) -> int:
        """What is taken, reservations and what is leaving included."""
        places = (*self._places.values(), *self._leaving)
        return self._reserved_bytes + sum(place.bytes for place in places)

    def take(self, name: str) -> Held | None:
        """Gives an object to one more user, who gives it back; None where it is not here."""
        place = self._places.get(name)
        if place is None:
            return None
        self._places.move_to_end(name)
        place.users += 1
        return place.held

    def give_back(self, held: Held) -> None:
        """One user is done with what `take` gave it."""
        place = next(one for one in (*self._places.values(), *self._leaving) if one.held is held)
        place.users -= 1
        if not place.users and place in self._leaving:
            self._leaving.remove(place)

    def fits(self, size_bytes: int) -> bool:
        """Whether there is room for so much as things stand."""
        return self.limit_bytes is None or self.bytes + size_bytes <= self.limit_bytes

    def make_room(self, size_bytes: int) -> bool:
        """Makes room for so much, or as much of it as can be made now. Returns whether there is enough.

        First go those that nobody uses. Where that is not enough, those that are used get no more users, as many as
        it takes: call again when something was given back. So nobody waits for ever for a place among busy ones.
        """
        for name in [name for name, place in self._places.items() if not place.users]:
            if self.fits(size_bytes):
                break
            del self._places[name]
            self.evicted += 1
        for name in list(self._places):
            going_bytes = sum(place.bytes for place in self._leaving)
            if self.fits(size_bytes - going_bytes):
                break
            self.drop(name)
            self.evicted += 1
        return self.fits(size_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Keeps a place for an object that is on its way."""
        self._reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Ends a reservation."""
        self._reserved_bytes -= size_bytes

    def put(self, name: str, held: Held, size_bytes: int) -> None:
        """Puts an object where there is room for it; one of the same name leaves."""
        self.drop(name)
        self._places[name] = _Place(held, size_bytes)

    def drop(self, name: str) -> None:
        """Gives an object to nobody any more; it goes when its last user gives it back."""
        place = self._places.pop(name, None)
        if place is not None and place.users:
            self._leaving.append(place)
