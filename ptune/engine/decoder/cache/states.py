"""States of layers that keep one tensor for each sequence instead of keys and values (`ptune.formats.signature.StateLayer`).

Beside the row of each slot there are rows for snapshots (`ptune.engine.decoder.cache.snapshots`). All have their size from the start,
however long their sequences are.
"""

from __future__ import annotations

from ptune.engine.decoder.cache.lazy_memory import PAGE_BYTES, LazyMemory
from ptune.engine.onnx_graph import Array
from ptune.formats.signature import Signature


class States:
    """One array [slots + snapshots, *shape] for each state. The rows of neighbouring slots are one slice, bound to the graph without a
    copy: it writes them in place."""

    def __init__(self, signature: Signature, slots: int, snapshots: int) -> None:
        """Raises: MemoryError."""
        self._slots, self._rows = slots, slots + snapshots
        self.row_bytes = signature.state_bytes()
        self._memory = LazyMemory(self._rows * self.row_bytes)
        self._arrays: dict[str, Array] = {}
        start_bytes = 0
        for name, state in zip(signature.past_state_names(), signature.states, strict=True):
            self._arrays[name] = self._memory.array(start_bytes, (self._rows, *state.shape))
            start_bytes += self._rows * state.size_bytes
        self._touched: set[int] = set()  # rows that are in memory

    @property
    def snapshots(self) -> range:
        """The rows behind those of slots."""
        return range(self._slots, self._rows)

    def window(self, low: int, high: int) -> dict[str, Array]:
        """The rows of slots [low, high) of every state input. The graph writes all of them, those of idle sequences as they were."""
        self._touched.update(range(low, high))
        return {name: array[low:high] for name, array in self._arrays.items()}

    def copy(self, source: int, target: int) -> None:
        """Copies one row into another."""
        for array in self._arrays.values():
            array[target] = array[source]
        self._touched.add(target)

    def begin(self, row: int) -> None:
        """Sets a row to zeros, from which every sequence begins."""
        for array in self._arrays.values():
            array[row] = 0

    def free(self) -> None:
        """Gives all memory back to the system; everything is zero again."""
        self._memory.give_back(0, self._memory.size_bytes // PAGE_BYTES * PAGE_BYTES)
        self._touched.clear()

    @property
    def resident_bytes(self) -> int:
        """Memory that is taken now."""
        return len(self._touched) * self.row_bytes
