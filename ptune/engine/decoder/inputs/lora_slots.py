"""LoRA slots: the factors of a decoder's active adapters, side by side as the graph takes them.

A step's adapters are a window of adjacent slots, passed to the graph without a copy: tokens of group g are multiplied only by
the factors of slot g. An adapter is copied when it gets a slot, and keeps it until another adapter needs the slot.

Graphs with own operators take all factors of a slot as one line (`ptune.engine.decoder.inputs.packed_factors`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from ptune.engine.adapters.lora import Adapter, Factor
from ptune.engine.decoder.cache.lazy_memory import zeros
from ptune.engine.decoder.inputs.packed_factors import FactorLines, PackedFactors
from ptune.engine.device import Device, DeviceArray, Tensor, rows
from ptune.engine.kernels import FACTORS
from ptune.engine.onnx_graph import Array
from ptune.formats.signature import Signature, Socket

WIDER = 2  # slots of a window for each of its adapters, at most: unused ones between them cost time, too
GONE = -1  # the last use of a slot whose adapter is in memory no more: it is taken before one that takes no memory yet
RANKS = 3  # pools that are kept, each of one rank and of one number of own tokens


@dataclass(frozen=True, eq=False)
class Window:
    """Adjacent slots: the graph's inputs A [G, in, R] and B [G, R, out], or lines of them, and the index of each adapter
    among the G."""

    inputs: dict[str, Any]  # arrays, or tensors on a device
    groups: WeakKeyDictionary[Adapter, int]  # weak: a window keeps no adapter in memory
    count: int  # G
    rank: int  # R
    columns: int = 0  # N: columns of the head for tokens of the adapters' own
    biases: bool = False  # whether the first rank may be a bias
    gains: bool = False  # whether the graph takes gains


class LoraSlots:
    """One slot for each adapter that a step can have, of the rank of its widest. Unused slots take no memory."""

    def __init__(
        self,
        signature: Signature,
        count: int,
        packed: PackedFactors | None = None,
        device: Device | None = None,
    ) -> None:
        """packed: factors that the graph takes in lines; None: each is an input. device: where the factors lie."""
        self._signature = signature
        self._count = count
        self._packed = packed
        self._device = device
        self._pools: list[_RankPool] = []  # the most recently used last
        least = 0 if device is None else 1  # cuBLAS refuses products of rank 0
        self._none = _RankPool(signature, packed, device, 1, least).window(0, 1, {})

    def of(self, adapters: Collection[Adapter]) -> Window:
        """Returns a window with these adapters; for none, one slot of rank 0, or of zeros, which is the bare base."""
        if not adapters:
            return self._none
        size = max(adapter.rank for adapter in adapters), max(map(_columns, adapters))
        pool = next((pool for pool in self._pools if (pool.rank, pool.columns) == size), None)
        pool = pool or _RankPool(self._signature, self._packed, self._device, self._count, *size)
        self._pools = [*(other for other in self._pools if other is not pool), pool][-RANKS:]
        return pool.of({*adapters})


class _RankPool:
    """Slots for adapters up to one rank; lower ranks, and sockets that an adapter leaves alone, are padded with zeros."""

    def __init__(
        self,
        signature: Signature,
        packed: PackedFactors | None,
        device: Device | None,
        count: int,
        rank: int,
        columns: int = 0,
    ) -> None:
        self.rank = rank
        self.columns = columns
        shapes = {
            name: shape
            for socket in signature.sockets
            for name, shape in (
                (f"{socket.name}.A", (socket.in_features, rank)),
                (f"{socket.name}.B", (rank, socket.out_features)),
            )
        }
        self._device = device
        slots, count = count, count if device is None else 1  # one to fill, which is then copied to its place
        self._lines = None if packed is None else FactorLines(packed, shapes, count)
        self._arrays: dict[str, Array] = {} if self._lines is None else {FACTORS: self._lines.array}
        for name, shape in shapes.items():
            if self._lines is None or name not in self._lines:
                self._arrays[name] = zeros((count, *shape))
        ends = signature.ends
        self._own = None if ends is None else ends.own_columns
        self._biases = ends is not None and ends.has_biases
        if ends is not None and self._own is not None:
            self._arrays[self._own] = zeros((count, ends.width, columns))
        self._gains = {name: zeros((count, 1, size)) for name, size in signature.gain_sizes().items()}
        self._arrays |= self._gains
        self._placed: Mapping[str, Tensor] = self._arrays
        if device is not None:
            self._placed = {
                name: device.zeros((slots, *array.shape[1:]), array.dtype)
                for name, array in self._arrays.items()
            }
        self._gained = [False] * slots  # whether a slot has gains that are not 0
        self._sockets = signature.sockets
        self._holders: list[ref[Adapter] | None] = [None] * slots
        self._used = [0] * slots  # number of the last window that used each slot
        self._windows = 0
        self._last: Window | None = None

    def of(self, wanted: set[Adapter]) -> Window:
        """Returns a window with the wanted adapters, possibly among others."""
        if self._last is not None and {*self._last.groups} == wanted:
            return self._last
        self._windows += 1
        slots = self._assign(wanted)
        low, high = min(slots.values()), max(slots.values()) + 1
        for slot in slots.values():
            self._used[slot] = self._windows
        self._last = self.window(low, high, {adapter: slot - low for adapter, slot in slots.items()})
        return self._last

    def window(self, low: int, high: int, groups: Mapping[Adapter, int]) -> Window:
        """Returns slots [low, high)."""
        return Window(
            {name: rows(tensor, low, high) for name, tensor in self._placed.items()},
            WeakKeyDictionary(groups),
            high - low,
            self.rank,
            self.columns,
            self._biases,
            bool(self._gains),
        )

    def _assign(self, wanted: set[Adapter]) -> dict[Adapter, int]:
        """Gives each adapter a slot, all within a window that is not too wide, with as few copies as that allows."""
        holders = [None if holder is None else holder() for holder in self._holders]
        for slot, holder in enumerate(holders):
            if holder is None and self._holders[slot] is not None:
                self._used[slot] = GONE
        width = min(len(holders), WIDER * len(wanted))
        low = max(
            range(len(holders) - width + 1),
            key=lambda low: self._worth(low, holders[low : low + width], wanted),
        )
        slots = {
            adapter: slot
            for slot, adapter in enumerate(holders[low : low + width], low)
            if adapter is not None and adapter in wanted
        }
        middle = sum(slots.values()) / len(slots) if slots else low
        free = [slot for slot in range(low, low + width) if slot not in slots.values()]
        free.sort(key=lambda slot: (abs(slot - middle), self._used[slot]))
        missing = sorted(wanted - slots.keys(), key=lambda adapter: adapter.name)
        for adapter, slot in zip(missing, free[: len(missing)], strict=True):
            self._load(adapter, slot)
            slots[adapter] = slot
        return slots

    def _worth(self, low: int, holders: Sequence[Adapter | None], wanted: set[Adapter]) -> tuple[int, int]:
        """Rates a window by the wanted adapters in it, then by the time since its other slots were used.

        An adapter may be in several slots, as it is copied again where another window needs it.
        """
        others = [self._used[slot] for slot, holder in enumerate(holders, low) if holder not in wanted]
        return len(wanted.intersection(holders)), -sum(others)

    def _load(self, adapter: Adapter, slot: int) -> None:
        """Copies an adapter's factors into a slot."""
        self._fill(adapter, slot if self._device is None else 0)
        self._gained[slot] = bool(adapter.gains)
        self._holders[slot] = ref(adapter)
        if self._device is not None:
            for name, tensor in self._placed.items():
                if isinstance(tensor, DeviceArray):
                    self._device.copy(self._arrays[name], tensor.rows(slot, slot + 1))

    def _fill(self, adapter: Adapter, slot: int) -> None:
        """Writes an adapter's factors where a slot has them in the machine's memory."""
        for socket in self._sockets:
            name = socket.name
            a, b = adapter.factors.get(name) or _no_factors(socket)
            if self._lines is not None and f"{name}.A" in self._lines:
                self._lines.write(slot, name, a, b)
                continue
            slot_a, slot_b = self._arrays[f"{name}.A"][slot], self._arrays[f"{name}.B"][slot]
            slot_a[:, : a.shape[1]], slot_b[: len(b)] = a, b
            slot_a[:, a.shape[1] :], slot_b[len(b) :] = 0, 0
        if self._own is not None and (count := _columns(adapter)):
            assert adapter.ends is not None
            self._arrays[self._own][slot][:, :count] = adapter.ends.columns
        if adapter.gains or self._gained[slot] or self._device is not None:
            for name, array in self._gains.items():
                array[slot] = adapter.gains.get(name, 0)


def _no_factors(socket: Socket) -> tuple[Factor, Factor]:
    """Factors of rank 0."""
    return np.zeros((socket.in_features, 0), np.float32), np.zeros((0, socket.out_features), np.float32)


def _columns(adapter: Adapter) -> int:
    """Columns of the head that are an adapter's own. Those beyond them in its slot are never read."""
    return 0 if adapter.ends is None else adapter.ends.columns.shape[1]
