"""The factors of the adapters that are active in a step, side by side as one wide adapter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ptune.engine.adapters import Adapter, Factor
from ptune.formats.signature import EncoderSignature, Signature, Socket

LIMIT_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Stack:
    """Adapter inputs of the graph: A and B of every socket, as its signature has them, R being the sum of the ranks."""

    inputs: dict[str, Factor]
    columns: dict[Adapter, slice]  # each adapter's part of R
    rank: int
    bytes: int


class Stacks:
    """Keeps the stacks that were used last, within a limit in bytes: the same few sets of adapters come again."""

    def __init__(self, signature: Signature | EncoderSignature, limit_bytes: int = LIMIT_BYTES) -> None:
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


def _stack(adapters: list[Adapter], signature: Signature | EncoderSignature) -> Stack:
    """An adapter that leaves a socket alone, or has a lower rank there than elsewhere, is padded with zeros."""
    ends = np.cumsum([adapter.rank for adapter in adapters]).tolist()
    columns = {adapter: slice(end - adapter.rank, end) for adapter, end in zip(adapters, ends, strict=True)}
    rank = ends[-1] if ends else 0
    inputs: dict[str, Factor] = {}
    for socket in signature.sockets:
        wide_a, wide_b = _zeros(socket, rank)
        for adapter, part in columns.items():
            if socket.name in adapter.factors:
                a, b = adapter.factors[socket.name]
                end = part.start + (a.shape[1] if socket.kernel is None else a.shape[0])
                place_a, place_b = _columns(socket, wide_a, wide_b, part.start, end)
                place_a[:], place_b[:] = a, b
        if isinstance(signature, Signature):  # [G, ...]
            wide_a, wide_b = wide_a[None], wide_b[None]
        inputs |= {f"{socket.name}.A": wide_a, f"{socket.name}.B": wide_b}
    return Stack(inputs, columns, rank, sum(array.nbytes for array in inputs.values()))


def _zeros(socket: Socket, rank: int) -> tuple[Factor, Factor]:
    """A [in, R] and B [R, out]; of a convolution [R, in, kh, kw] and [out, R, 1, 1]."""
    if socket.kernel is None:
        shapes: tuple[tuple[int, ...], ...] = ((socket.in_features, rank), (rank, socket.out_features))
    else:
        shapes = ((rank, socket.in_features, *socket.kernel), (socket.out_features, rank, 1, 1))
    return np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32)


def _columns(socket: Socket, a: Factor, b: Factor, begin: int, end: int) -> tuple[Factor, Factor]:
    """The part of a stack's factors that is one adapter's."""
    if socket.kernel is None:
        return a[:, begin:end], b[begin:end]
    return a[begin:end], b[:, begin:end]
