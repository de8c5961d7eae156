"""The KV cache: one slot for each running sequence, as long as the model's context, in memory that is taken as it is written; and the
states of layers that keep some.

Addresses cost nothing, so each slot has as many as the longest sequence needs; the system gives memory to the pages that are
written, and takes back those that are cut off (vAttention's idea, Prabhu et al., ASPLOS 2025, https://arxiv.org/abs/2405.04437,
with the page tables of the CPU). So attention sees plain arrays, and no table of blocks. How many tokens may be in memory at
once is a count (ptune.engine.decoder.cache.budget), which the scheduler keeps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.prefix import Prefix
from ptune.engine.adapters.safetensors import read_tensors
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.lazy_memory import GIVE_BACK, PAGE_BYTES, LazyMemory
from ptune.engine.decoder.cache.snapshots import Snapshots
from ptune.engine.decoder.cache.states import States
from ptune.engine.onnx_graph import Array
from ptune.errors import AdapterError, UsageError
from ptune.formats.bundle import FLOAT_CACHE, INT8_CACHE_SCALES, CacheType
from ptune.formats.signature import Signature

Scales = Mapping[str, npt.NDArray[np.float32]]
NO_SCALES: Scales = MappingProxyType({})
INT8_RANGE = (-128, 127)

LONG_TOKENS = 2048  # where slots have one part of the budget each, none is made shorter than this for the sake of more slots
SNAPSHOT_PART = 3  # where states have less room than they could use, snapshots get one part in so many


class KvCache:
    """Slots of `capacity` tokens each. Neighbouring slots are one slice, bound to the graph without a copy.

    A slot has one position more than tokens, for the second query of a single token (see
    ptune.engine.decoder.inputs.attention_metadata), and is rounded up to pages.
    """

    def __init__(
        self,
        signature: Signature,
        slots: int,
        capacity: int,
        tokens: int | None = None,
        spare: int = 1,
        dtype: CacheType = FLOAT_CACHE,
        scales: Scales = NO_SCALES,
        snapshots: int = 0,
    ) -> None:
        """tokens: that may be in memory at once; None for all. spare: positions that a step may write behind a sequence.
        dtype: of keys and values. scales: as `put` needs them. snapshots: of the states of a model some of whose layers keep them.

        Raises: MemoryError.
        """
        kind = np.dtype(dtype)
        page = 1 if GIVE_BACK is None else page_tokens(signature, kind.itemsize)
        self.slots, self.capacity = slots, capacity
        self._scales = scales
        self.takes_prefixes = dtype == FLOAT_CACHE or bool(scales)
        self.room = capacity + 1  # positions of a slot that a step may write
        allocated = -(-self.room // page) * page
        most = slots * allocated
        window, windowed = 0, Fraction(0)
        if GIVE_BACK is not None and signature.window:
            window = signature.window
            windowed = Fraction(signature.windowed_bytes_per_token(), signature.cache_bytes_per_token())
        self.budget = CacheBudget(
            most if tokens is None else min(tokens, most), page, spare, allocated, window, windowed
        )
        self._parts = _parts(signature, slots, allocated, kind.itemsize)
        self._memory = LazyMemory(sum(part.slot_bytes * slots for part in self._parts))
        self._arrays: dict[str, Array] = {
            part.name: self._memory.array(part.start_bytes, (slots, part.heads, allocated, part.dim), kind)
            for part in self._parts
        }
        self.states = States(signature, slots, snapshots)
        self.snapshots: Snapshots | None = None
        if signature.states:
            self.snapshots = Snapshots(self.states.snapshots, self.states.copy, alone=not signature.cache)
        self._written = np.zeros(slots, np.int64)  # positions of each slot that are in memory
        self._slid = [0] * slots  # of these, the first ones that layers with a window have given back
        self.slid_bytes = 0  # that were given back so, since the start
        self._last: tuple[tuple[int, int], Mapping[str, Array]] | None = None

    def require_place(self, adapter: str, prefix: Prefix | None) -> None:
        """Raises: AdapterError for an adapter with keys and values of its own that this cache cannot hold."""
        if prefix is not None and not self.takes_prefixes:
            raise AdapterError(
                f"adapter {adapter!r} brings keys and values, and this bundle's int8 cache was exported before such adapters"
                " were served: export it again, or leave out --kv-cache-dtype"
            )

    @classmethod
    def within(
        cls,
        budget_bytes: int,
        signature: Signature,
        max_slots: int,
        spare: int = 1,
        dtype: CacheType = FLOAT_CACHE,
        scales: Scales = NO_SCALES,
    ) -> KvCache:
        """Makes `max_slots` slots of the model's context, of which no more than the budget is ever in memory, states included.

        Where the system does not give memory back, or does not reserve so many addresses, each slot is an equal part of the
        budget. There are fewer slots where that would leave them shorter than LONG_TOKENS and than the model's context.

        Raises: UsageError where not even one short sequence fits; MemoryError.
        """
        item_bytes = np.dtype(dtype).itemsize
        max_slots, snapshots = rows_within(budget_bytes, signature, max_slots)
        if not signature.cache:
            return cls(signature, max_slots, signature.context, spare=spare, snapshots=snapshots)
        per_token = signature.cache_bytes_per_token(item_bytes)
        tokens = (budget_bytes - (max_slots + snapshots) * signature.state_bytes()) // per_token
        if GIVE_BACK is not None:
            page = page_tokens(signature, item_bytes)
            longest = CacheBudget(tokens, page, spare).longest()
            if longest:
                with contextlib.suppress(MemoryError):
                    capacity = min(signature.context, longest)
                    return cls(
                        signature, max_slots, capacity, tokens // page * page, spare, dtype, scales, snapshots
                    )
        if tokens < 2:
            raise UsageError(
                f"a KV cache of {budget_bytes} bytes holds {tokens} tokens: one token takes {per_token} bytes"
            )
        slots = min(max_slots, max(1, tokens // (min(signature.context, LONG_TOKENS) + 1)))
        capacity = min(signature.context, tokens // slots - 1)
        return cls(signature, slots, capacity, spare=spare, dtype=dtype, scales=scales, snapshots=snapshots)

    def window(self, low: int, high: int) -> Mapping[str, Any]:
        """Returns slots [low, high) of every cache input, views [high - low, kv_heads, room or more, dim], and of every state input. The
        same mapping is returned as long as the range stays the same."""
        if self._last is None or self._last[0] != (low, high):
            caches = {name: array[low:high] for name, array in self._arrays.items()}
            self._last = (low, high), {**caches, **self.states.window(low, high)}
        return self._last[1]

    def write(self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
        """Records that a step writes the first `positions` positions of `slots`, or some of them."""
        self._written[slots] = np.maximum(self._written[slots], positions)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies tokens [start, stop) of one slot into another, as far as they are there."""
        slid = self._slid[source]
        for part in self._parts:
            first = max(start, slid) if part.window else start
            array = self._arrays[part.name]
            array[target, :, first:stop] = array[source, :, first:stop]
        self._written[target] = max(self._written[target], stop)
        self._slid[target] = min(self._slid[target], max(start, slid) // self.budget.page * self.budget.page)

    def slide(self, slot: int, positions: int) -> None:
        """Gives the memory of so many first positions of a slot back, in layers with a window that has gone past them. positions: in
        whole pages; those given back before stay so."""
        before = self._slid[slot]
        if positions <= before:
            return
        for part in (one for one in self._parts if one.window):
            start_bytes, size_bytes = (
                part.page_bytes(before),
                part.page_bytes(positions) - part.page_bytes(before),
            )
            for head in range(part.heads):
                at = part.start_bytes + slot * part.slot_bytes + head * part.head_bytes
                self._memory.give_back(at + start_bytes, size_bytes)
            self.slid_bytes += part.heads * size_bytes
        self._slid[slot] = positions

    def put(self, slot: int, prefix: Prefix) -> None:
        """Copies an adapter's virtual tokens to the beginning of a slot."""
        for name, cache in prefix.caches.items():
            self._arrays[name][slot, :, : prefix.tokens] = stored(cache, self._scales.get(name))
        self._written[slot] = max(self._written[slot], prefix.tokens)

    def packed_bytes(self, tokens: int) -> int:
        """Bytes of so many tokens of a slot, as `packed` gives them."""
        return tokens * sum(array[0, :, 0].nbytes for array in self._arrays.values())

    def packed(self, slot: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """A copy of tokens [start, stop) of a slot, one cache behind the other."""
        parts = (array[slot, :, start:stop] for array in self._arrays.values())
        return np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in parts])

    def unpack(self, slot: int, start: int, stop: int, content: npt.NDArray[np.uint8]) -> None:
        """Writes what `packed` gave to tokens [start, stop) of a slot."""
        at = 0
        for array in self._arrays.values():
            part = array[slot, :, start:stop]
            part[...] = content[at : at + part.nbytes].view(array.dtype).reshape(part.shape)
            at += part.nbytes
        self._written[slot] = max(self._written[slot], stop)
        self._slid[slot] = min(self._slid[slot], start // self.budget.page * self.budget.page)

    def cut(self, slot: int, positions: int) -> None:
        """Gives the pages of a slot behind so many positions back to the system; their content is lost."""
        written = int(self._written[slot])
        if GIVE_BACK is None or written <= positions:
            return
        for part in self._parts:
            start_bytes = part.start_bytes + slot * part.slot_bytes
            if not positions:
                self._memory.give_back(start_bytes, part.slot_bytes)
                self._slid[slot] = 0
                continue
            keep_bytes, until_bytes = part.page_bytes(positions), part.page_bytes(written)
            for head in range(part.heads):
                head_bytes = start_bytes + head * part.head_bytes
                self._memory.give_back(head_bytes + keep_bytes, until_bytes - keep_bytes)
        self._written[slot] = positions
        self._slid[slot] = min(self._slid[slot], positions)

    def free(self) -> None:
        """Gives the states' memory back to the system; that of keys and values is cut."""
        self.states.free()

    @property
    def resident_bytes(self) -> int:
        """Memory that is taken now."""
        written = self._written.tolist()
        pages = sum(part.heads * sum(map(part.page_bytes, written)) for part in self._parts)
        slid = sum(part.heads * sum(map(part.page_bytes, self._slid)) for part in self._parts if part.window)
        return pages - slid + self.states.resident_bytes


@dataclass(frozen=True)
class _Part:
    """The keys or the values of a layer: [slots, heads, allocated, dim], one behind the other in memory."""

    name: str
    heads: int
    dim: int
    start_bytes: int
    head_bytes: int  # of one head in one slot
    item_bytes: int  # of a number
    window: bool  # whether queries see a window of it alone

    @property
    def slot_bytes(self) -> int:
        return self.heads * self.head_bytes

    def page_bytes(self, positions: int) -> int:
        """Bytes of the pages that so many positions of one head take."""
        return -(-positions * self.dim * self.item_bytes // PAGE_BYTES) * PAGE_BYTES


def _parts(signature: Signature, slots: int, allocated: int, item_bytes: int) -> list[_Part]:
    dims = [(layer, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)]
    parts, start_bytes = [], 0
    for name, (layer, dim) in zip(signature.past_names(), dims, strict=True):
        head_bytes = allocated * dim * item_bytes
        part = _Part(name, layer.kv_heads, dim, start_bytes, head_bytes, item_bytes, bool(layer.window))
        parts.append(part)
        start_bytes += slots * part.slot_bytes
    return parts


def rows_within(budget_bytes: int, signature: Signature, max_slots: int) -> tuple[int, int]:
    """How many sequences may run at once, at most `max_slots`, and how many snapshots of states there are: as many again, or fewer.

    States take their bytes from the start. So that they leave room for keys and values, they get half of the budget at most.
    Raises: UsageError where not even those of one sequence fit.
    """
    if not signature.states:
        return max_slots, 0
    row_bytes = signature.state_bytes()
    rows = (budget_bytes // 2 if signature.cache else budget_bytes) // row_bytes
    if not rows:
        raise UsageError(
            f"a KV cache of {budget_bytes} bytes has no room for states: those of one sequence take {row_bytes} bytes"
        )
    slots = min(max_slots, max(1, rows - rows // SNAPSHOT_PART))
    return slots, min(slots, rows - slots)


def read_scales(graph: Path, dtype: CacheType) -> Scales:
    """The scales that a graph rounds keys and values by: cache input -> [kv_heads, dim].

    None for a graph that does not round them, or was exported before they were written beside it. Raises: FormatError.
    """
    file = graph.with_name(INT8_CACHE_SCALES)
    return NO_SCALES if dtype == FLOAT_CACHE or not file.is_file() else read_tensors(file)


def stored(cache: npt.NDArray[np.float32], scale: npt.NDArray[np.float32] | None) -> Array:
    """Keys or values [kv_heads, tokens, dim] as a cache has them, rounded as attention rounds what it writes. scale: [kv_heads, dim];
    None: in float32."""
    if scale is None:
        return cache
    return np.clip(np.rint(cache / scale[:, None]), *INT8_RANGE).astype(np.int8)


def page_tokens(signature: Signature, item_bytes: int) -> int:
    """Positions that fill whole pages in every layer: 16 for heads of 64 float32 in pages of 4096 bytes, 64 of int8."""
    dims = {dim for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)}
    return math.lcm(*(PAGE_BYTES // math.gcd(PAGE_BYTES, dim * item_bytes) for dim in dims))
