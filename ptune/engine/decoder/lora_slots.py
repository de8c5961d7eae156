"""The factors of a decoder's active adapters, in places side by side, as the graph takes them.

A step's adapters are a window of neighbouring places, handed to the graph without a copy: tokens of place g meet only the
factors of place g. An adapter is copied when it gets a place, alone, and keeps it until somebody else needs that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

from ptune.engine.adapters.lora import Adapter, Factor
from ptune.engine.decoder.lazy_memory import zeros
from ptune.formats.signature import Signature

WIDER = 2  # times as many places as adapters in a window: those between cost time, too
RANKS = 3  # widths of places that are kept


@dataclass(frozen=True, eq=False)
class Window:
    """Neighbouring places: the graph's inputs A [G, in, R] and B [G, R, out], and which of the G each adapter has."""

    inputs: dict[str, Factor]
    groups: WeakKeyDictionary[Adapter, int]  # no adapter is kept in memory by what was computed with it
    count: int  # G
    rank: int  # R


class LoraSlots:
    """As many places as a step can have adapters, of the rank of its widest. Untouched places take no memory."""

    def __init__(self, signature: Signature, count: int) -> None:
        self._signature = signature
        self._count = count
        self._kept: list[_RankPool] = []  # those that were used last at the end
        self._none = _RankPool(signature, 1, 0).window(0, 1, {})

    def of(self, adapters: Collection[Adapter]) -> Window:
        """A window that holds these adapters; of none, one place of rank 0, which is the bare base."""
        if not adapters:
            return self._none
        rank = max(adapter.rank for adapter in adapters)
        found = next((one for one in self._kept if one.rank == rank), None)
        found = found or _RankPool(self._signature, self._count, rank)
        self._kept = [*(one for one in self._kept if one is not found), found][-RANKS:]
        return found.of({*adapters})


class _RankPool:
    """LoraSlots for adapters up to one rank; one of less is padded with zeros, as is a socket that it leaves alone."""

    def __init__(self, signature: Signature, count: int, rank: int) -> None:
        self.rank = rank
        self._arrays = {
            name: zeros((count, *shape))
            for socket in signature.sockets
            for name, shape in (
                (f"{socket.name}.A", (socket.in_features, rank)),
                (f"{socket.name}.B", (rank, socket.out_features)),
            )
        }
        self._sockets = [socket.name for socket in signature.sockets]
        self._holders: list[ref[Adapter] | None] = [None] * count
        self._used = [0] * count  # when each was used last, in windows
        self._windows = 0
        self._last: Window | None = None

    def of(self, wanted: set[Adapter]) -> Window:
        """A window that holds `wanted`, in which there may be others."""
        if self._last is not None and {*self._last.groups} == wanted:
            return self._last
        self._windows += 1
        places = self._settle(wanted)
        low, high = min(places.values()), max(places.values()) + 1
        for place in places.values():
            self._used[place] = self._windows
        self._last = self.window(low, high, {adapter: place - low for adapter, place in places.items()})
        return self._last

    def window(self, low: int, high: int, groups: Mapping[Adapter, int]) -> Window:
        """LoraSlots [low, high)."""
        return Window(
            {name: array[low:high] for name, array in self._arrays.items()},
            WeakKeyDictionary(groups),
            high - low,
            self.rank,
        )

    def _settle(self, wanted: set[Adapter]) -> dict[Adapter, int]:
        """Gives each a place, all of them within a window that is not too wide, with as few copies as that allows."""
        holders = [None if holder is None else holder() for holder in self._holders]
        width = min(len(holders), WIDER * len(wanted))
        low = max(
            range(len(holders) - width + 1),
            key=lambda low: self._worth(low, holders[low : low + width], wanted),
        )
        places = {
            adapter: place
            for place, adapter in enumerate(holders[low : low + width], low)
            if adapter is not None and adapter in wanted
        }
        middle = sum(places.values()) / len(places) if places else low
        free = [place for place in range(low, low + width) if place not in places.values()]
        free.sort(key=lambda place: (abs(place - middle), self._used[place]))
        missing = sorted(wanted - places.keys(), key=lambda adapter: adapter.name)
        for adapter, place in zip(missing, free[: len(missing)], strict=True):
            self._put(adapter, place)
            places[adapter] = place
        return places

    def _worth(self, low: int, holders: Sequence[Adapter | None], wanted: set[Adapter]) -> tuple[int, int]:
        """Of a window: how many wanted ones it has, and how long its others have not been used.

        An adapter may hold several places, as it is copied anew where a window lies elsewhere.
        """
        others = [self._used[place] for place, holder in enumerate(holders, low) if holder not in wanted]
        return len(wanted.intersection(holders)), -sum(others)

    def _put(self, adapter: Adapter, place: int) -> None:
        """Copies an adapter's factors into a place."""
        for name in self._sockets:
            place_a, place_b = self._arrays[f"{name}.A"][place], self._arrays[f"{name}.B"][place]
            a, b = adapter.factors.get(name, (place_a[:, :0], place_b[:0]))
            place_a[:, : a.shape[1]], place_b[: len(b)] = a, b
            place_a[:, a.shape[1] :], place_b[len(b) :] = 0, 0
        self._holders[place] = ref(adapter)
