"""The KV cache: one allocation for each layer, divided into slots, one slot for each running sequence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.lazy_memory import zeros
from ptune.errors import UsageError
from ptune.formats.signature import CacheLayer, Signature

LONG_TOKENS = 2048  # a slot is not made shorter than this for the sake of more slots


class KvCache:
    """Slots of `capacity` tokens each. Neighbouring slots are one slice, bound to the graph without a copy.

    A slot has one position more than tokens, for the second query of a single token (see ptune.engine.decoder.attention_metadata).
    """

    def __init__(self, signature: Signature, slots: int, capacity: int) -> None:
        self.slots = slots
        self.capacity = capacity
        self.allocated = capacity + 1
        self._arrays = {
            name: zeros((slots, layer.kv_heads, self.allocated, dim))
            for name, layer, dim in _entries(signature)
        }
        self._last: tuple[tuple[int, int], dict[str, npt.NDArray[np.float32]]] | None = None

    @classmethod
    def within(cls, budget_bytes: int, signature: Signature, max_slots: int) -> KvCache:
        """Allocates `max_slots` slots, or fewer and longer ones where the budget would leave them too short.

        A slot of LONG_TOKENS (or of the model's context, where that is less) is long enough.

        Raises: UsageError where not even one short sequence fits.
        """
        per_token = signature.cache_bytes_per_token()
        tokens = budget_bytes // per_token
        if tokens < 2:
            raise UsageError(
                f"a KV cache of {budget_bytes} bytes holds {tokens} tokens: one token takes {per_token} bytes"
            )
        slots = min(max_slots, max(1, tokens // (min(signature.context, LONG_TOKENS) + 1)))
        return cls(signature, slots, min(signature.context, tokens // slots - 1))

    def window(self, low: int, high: int) -> dict[str, npt.NDArray[np.float32]]:
        """Returns slots [low, high) of every cache input: views [high - low, kv_heads, allocated, dim]. The same mapping is
        returned as long as the range stays the same."""
        if self._last is None or self._last[0] != (low, high):
            self._last = (low, high), {name: array[low:high] for name, array in self._arrays.items()}
        return self._last[1]

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copies tokens [start, stop) of one slot into another."""
        for array in self._arrays.values():
            array[target, :, start:stop] = array[source, :, start:stop]


def _entries(signature: Signature) -> list[tuple[str, CacheLayer, int]]:
    dims = [(layer, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)]
    return [(name, layer, dim) for name, (layer, dim) in zip(signature.past_names(), dims, strict=True)]
