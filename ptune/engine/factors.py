"""The factors of the adapters that are active in a step, side by side as one wide adapter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ptune.engine.adapters import Adapter, Factor
from ptune.formats.signature import Signature

LIMIT_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Stack:
    """Adapter inputs of the graph: A [1, in, R] and B [1, R, out] of every socket, R the sum of the ranks."""

    inputs: dict[str, Factor]
    columns: dict[Adapter, slice]  # each adapter's part of R
    rank: int
    bytes: int


class Stacks:
    """Keeps the stacks that were used last, within a limit in bytes: the same few sets of adapters come again."""

    def __init__(self, signature: Signature, limit_bytes: int = LIMIT_BYTES) -> None:
        self._signature = signature
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[frozenset[Adapter], Stack] = OrderedDict()

    def of(self, adapters: Collection[Adapter]) -> Stack:
        """The stack of a set of adapters; of none, a stack of rank 0, which is the bare base."""
        key = frozenset(adapters)
        if key not in self._kept:
            self._kept[key] = _stack(sorted(key, key=lambda adapter: adapter.name), self._signature)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(stack.bytes for stack in self._kept.values()) > self._limit_bytes:
            self._kept.popitem(last=False)
        return self._kept[key]


def _stack(adapters: list[Adapter], signature: Signature) -> Stack:
    """An adapter that leaves a socket alone, or has a lower rank there than elsewhere, is padded with zeros."""
    ends = np.cumsum([adapter.rank for adapter in adapters]).tolist()
    columns = {adapter: slice(end - adapter.rank, end) for adapter, end in zip(adapters, ends, strict=True)}
    rank = ends[-1] if ends else 0
    inputs: dict[str, Factor] = {}
    for socket in signature.sockets:
        wide_a = np.zeros((1, socket.in_features, rank), np.float32)
        wide_b = np.zeros((1, rank, socket.out_features), np.float32)
        for adapter, part in columns.items():
            if socket.name in adapter.factors:
                a, b = adapter.factors[socket.name]
                wide_a[0, :, part][:, : a.shape[1]] = a
                wide_b[0, part][: b.shape[0]] = b
        inputs |= {f"{socket.name}.A": wide_a, f"{socket.name}.B": wide_b}
    return Stack(inputs, columns, rank, sum(array.nbytes for array in inputs.values()))
