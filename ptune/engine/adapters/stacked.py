"""Adapters' factors as a pass of an encoder or an encoder-decoder takes them: side by side as one wide adapter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ptune.engine.adapters.lora import Adapter, Factor
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Socket

LIMIT_BYTES = 512 << 20
WIDER = 2  # width of a stack relative to the columns needed, at most: unused columns cost time, too


@dataclass(frozen=True, slots=True)
class Stack:
    """Adapter inputs of the graph: A and B of every socket, as its signature has them, R being the sum of the ranks."""

    inputs: dict[str, Factor]
    columns: WeakKeyDictionary[
        Adapter, slice
    ]  # each adapter's part of R; weak: an adapter freed elsewhere disappears here too
    rank: int
    bytes: int
    adapters: int  # number of adapters that it was built from

    @property
    def incomplete(self) -> bool:
        """Whether one of its adapters was freed."""
        return len(self.columns) < self.adapters

    def lora_mask(self, rows: Sequence[Adapter | None]) -> Factor:
        """[rows, R]: 1 where a row uses a column, its adapter's own; None = the bare base."""
        mask = np.zeros((len(rows), self.rank), np.float32)
        for row, adapter in enumerate(rows):
            if adapter is not None:
                mask[row, self.columns[adapter]] = 1
        return mask


class Stacks:
    """Keeps the most recently used stacks, within a limit in bytes: the same adapters tend to be used again.

    Building a stack copies its adapters whole, which takes as long as many passes. So a stack with further adapters is
    used too, up to WIDER times as wide as needed, and a new one includes the most recently used adapters: while
    requests are for the same few adapters, nothing is copied.
    """

    def __init__(
        self, signature: EncoderSignature | Seq2SeqSignature, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self._signature = signature
        self._limit_bytes = limit_bytes
        self._kept: list[Stack] = []  # the most recently used last

    def of(self, adapters: Collection[Adapter]) -> Stack:
        """A stack that holds these adapters; of none, a stack of rank 0, which is the bare base."""
        wanted = {*adapters}
        most = WIDER * sum(adapter.rank for adapter in wanted)
        fitting = [one for one in self._kept if one.rank <= most and wanted <= {*one.columns}]
        found = min(fitting, key=lambda one: one.rank) if fitting else self._built(wanted, most)
        self._kept = [*(one for one in self._kept if one is not found), found]
        while len(self._kept) > 1 and sum(stack.bytes for stack in self._kept) > self._limit_bytes:
            del self._kept[0]
        return found

    def _built(self, wanted: set[Adapter], most: int) -> Stack:
        """A new stack, with as many of the last one's other adapters as make it no wider than `most`."""
        self._kept = [one for one in self._kept if not one.incomplete]
        members = sorted(wanted, key=lambda adapter: adapter.name)
        for other in list(self._kept[-1].columns) if self._kept else []:
            if other not in wanted and sum(one.rank for one in members) + other.rank <= most:
                members.append(other)
        return stack_of(members, self._signature)


def stack_of(adapters: Sequence[Adapter], signature: EncoderSignature | Seq2SeqSignature) -> Stack:
    """The stack of these adapters and no others; of none, the bare base.

    An adapter that leaves a socket alone, or has a lower rank there than elsewhere, is padded with zeros."""
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
        inputs |= {f"{socket.name}.A": wide_a, f"{socket.name}.B": wide_b}
    held = sum(array.nbytes for array in inputs.values())
    return Stack(inputs, WeakKeyDictionary(columns), rank, held, len(columns))


def _zeros(socket: Socket, rank: int) -> tuple[Factor, Factor]:
    """A [in, R] and B [R, out]; of a convolution [R, in, kh, kw] and [out, R, 1, 1]."""
    if socket.kernel is None:
        shapes: tuple[tuple[int, ...], ...] = ((socket.in_features, rank), (rank, socket.out_features))
    else:
        shapes = ((rank, socket.in_features, *socket.kernel), (socket.out_features, rank, 1, 1))
    return np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.float32)


def _columns(socket: Socket, a: Factor, b: Factor, begin: int, end: int) -> tuple[Factor, Factor]:
    """One adapter's part of a stack's factors."""
    if socket.kernel is None:
        return a[:, begin:end], b[begin:end]
    return a[begin:end], b[:, begin:end]
