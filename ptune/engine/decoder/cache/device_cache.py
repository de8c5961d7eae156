"""Keys, values and states on a device. Its memory is taken from the start, so each slot is an equal part of the budget.

A slot is copied whole, within the device: at the speed of its memory that is a millisecond, and no part of it leaves the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.prefix import Prefix
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.kv_cache import LONG_TOKENS, KvCache, rows_within
from ptune.engine.decoder.cache.snapshots import Snapshots
from ptune.engine.decoder.cache.states import States
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.device import CACHE, Device
from ptune.engine.device_choice import device_for
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.signature import Signature


def on_device(bundle: Bundle, graph: Path, options: EngineOptions) -> tuple[Graphs, DeviceCache] | None:
    """The graph and the cache of an engine on the device that `options` ask for; None for the CPU.

    Raises: UsageError where it cannot serve the graph's profile, or has too little memory; FormatError; PtuneError.
    """
    device = device_for(bundle, graph.parent.name, options)
    if device is None:
        return None
    graphs = Graphs.open(graph, bundle.decoder, options.threads, device=device)
    return graphs, DeviceCache.on(options.kv_bytes, bundle.decoder, options.max_rows, device)


class DeviceStates(States):
    """One tensor [slots + snapshots, *shape] for each state, and a row of zeros behind them."""

    def __init__(self, signature: Signature, rows: int, device: Device) -> None:
        """Raises: MemoryError."""  # no more of States than its methods: the memory is another
        self._device, self._zeros = device, rows
        names, states = signature.past_state_names(), signature.states
        self._tensors = {
            name: device.zeros((rows + 1, *state.shape)) for name, state in zip(names, states, strict=True)
        }
        self._size_bytes = sum(tensor.size_bytes for tensor in self._tensors.values())

    @property
    def resident_bytes(self) -> int:
        return self._size_bytes

    def window(self, low: int, high: int) -> dict[str, Any]:
        return {name: tensor.rows(low, high) for name, tensor in self._tensors.items()}

    def copy(self, source: int, target: int) -> None:
        """Copies one row into another."""
        for tensor in self._tensors.values():
            self._device.copy(tensor.rows(source, source + 1), tensor.rows(target, target + 1))

    def begin(self, row: int) -> None:
        """Sets a row to zeros, from which every sequence begins."""
        self.copy(self._zeros, row)

    def free(self) -> None:
        self._tensors = {}


class DeviceCache(KvCache):
    """Slots of `capacity` tokens each, in half precision. Neighbouring slots are bound to the graph without a copy."""

    def __init__(
        self,
        signature: Signature,
        slots: int,
        capacity: int,
        device: Device,
        spare: int = 1,
        snapshots: int = 0,
    ) -> None:
        """spare: positions that a step may write behind a sequence. snapshots: of states. Raises: MemoryError."""
        self.slots, self.capacity = slots, capacity
        self.room = capacity + 1
        self.budget = CacheBudget(slots * self.room, 1, spare, self.room)
        self.takes_prefixes = True
        self.slid_bytes = 0
        self._device = device
        dims = [
            (layer.kv_heads, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)
        ]
        self._tensors = {
            name: device.zeros((slots, heads, self.room, dim), CACHE)
            for name, (heads, dim) in zip(signature.past_names(), dims, strict=True)
        }
        self.states = DeviceStates(signature, slots + snapshots, device)
        self.snapshots: Snapshots | None = None
        if signature.states:
            rows = range(slots, slots + snapshots)
            self.snapshots = Snapshots(rows, self.states.copy, alone=not signature.cache)
        tensors = sum(tensor.size_bytes for tensor in self._tensors.values())
        self._size_bytes = tensors + self.states.resident_bytes
        self._last: tuple[tuple[int, int], Mapping[str, Any]] | None = None

    @classmethod
    def on(
        cls, budget_bytes: int, signature: Signature, max_slots: int, device: Device, spare: int = 1
    ) -> DeviceCache:
        """As many slots, at most `max_slots`, as the budget has room for with LONG_TOKENS each, or the model's context where that is
        less; fewer tokens in one slot where not even one is as long.

        Raises: UsageError where not even one short sequence fits, or the device has not so much memory.
        """
        slots, snapshots = rows_within(budget_bytes, signature, max_slots)
        capacity = signature.context
        if signature.cache:
            per_token = signature.cache_bytes_per_token(CACHE.itemsize)
            tokens = (budget_bytes - (slots + snapshots) * signature.state_bytes()) // per_token
            if tokens < 2:
                raise UsageError(
                    f"a KV cache of {budget_bytes} bytes holds {tokens} tokens: one token takes {per_token} bytes"
                )
            slots = min(slots, max(1, tokens // (min(signature.context, LONG_TOKENS) + 1)))
            capacity = min(signature.context, tokens // slots - 1)
        try:
            return cls(signature, slots, capacity, device, spare, snapshots)
        except MemoryError as error:
            raise UsageError(
                f"a KV cache of {budget_bytes / 1e9:.1f} GB does not fit beside the weights ({error}): --kv-gb sets another size"
            ) from None

    def window(self, low: int, high: int) -> Mapping[str, Any]:
        """Slots [low, high) of every cache input and every state input, the same mapping as long as the range stays the same."""
        if self._last is None or self._last[0] != (low, high):
            caches = {name: tensor.rows(low, high) for name, tensor in self._tensors.items()}
            self._last = (low, high), {**caches, **self.states.window(low, high)}
        return self._last[1]

    def write(self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
        """All memory is taken already."""

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies a slot; tokens before `start` are the same in both."""
        for tensor in self._tensors.values():
            self._device.copy(tensor.rows(source, source + 1), tensor.rows(target, target + 1))

    def put(self, slot: int, prefix: Prefix) -> None:
        """Copies an adapter's virtual tokens to the beginning of a slot."""
        for name, cache in prefix.caches.items():
            tensor = self._tensors[name].rows(slot, slot + 1)
            whole = np.zeros(tensor.shape, CACHE)
            whole[0, :, : prefix.tokens] = cache
            self._device.copy(whole, tensor)

    @property
    def resident_bytes(self) -> int:
        return self._size_bytes

    def cut(self, slot: int, positions: int) -> None:
        """The device's memory stays taken."""

    def slide(self, slot: int, positions: int) -> None:
        """Likewise; its budget knows no windows."""

    def free(self) -> None:
        """Gives the device's memory back, once no graph has it bound."""
        self._tensors, self._last = {}, None
        self.states.free()
