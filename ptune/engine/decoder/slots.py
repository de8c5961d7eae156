"""Slots of the KV cache and the prefixes they hold: a prefix that was computed before is not computed again.

A slot keeps its content until another sequence needs the slot. A new sequence that shares a prefix with that content, under
the same adapter, continues in the slot; where the slot is busy or holds more than the prefix, it gets a copy. As a token's
numbers do not depend on what it was computed with, this changes no answer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.engine.adapters.lora import Adapter
    from ptune.engine.decoder.sequence import TokenSequence

WORTH_A_COPY = 16  # tokens
Copy = Callable[[int, int, int, int], None]
"""Copies cached tokens between slots: source, target, first position, position after the last."""


@dataclass(frozen=True)
class Kept:
    """Content of a free slot."""

    tokens: list[int]
    adapter: weakref.ref[Adapter] | None  # weak: kept tokens keep no adapter in memory; None = the bare base


class Slots:
    """Free and busy slots, numbered from 0."""

    def __init__(self, count: int, copy: Copy) -> None:
        self._copy = copy
        self._free: dict[int, Kept | None] = dict.fromkeys(
            range(count)
        )  # the one that was freed longest ago first
        self._busy: dict[int, TokenSequence] = {}
        self.reused = 0  # tokens found in the cache instead of computed

    def __len__(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def free(self) -> list[int]:
        """Free slots in the order in which they are allocated."""
        return list(self._free)

    def allocate(self, sequence: TokenSequence) -> None:
        """Gives a sequence a free slot, and sets `cached` to the tokens it finds there."""
        source, shared = self._best(sequence)
        if source in self._free and self._worth_it(source, shared):
            slot = source
        else:
            slot = next(iter(self._free))
            shared = shared if shared >= WORTH_A_COPY or slot == source else 0
            if shared and source != slot:
                self._copy(source, slot, 0, shared)
        del self._free[slot]
        self._busy[slot] = sequence
        sequence.slot, sequence.cached = slot, shared
        self.reused += shared

    def fork(self, source: TokenSequence, target: TokenSequence) -> None:
        """Makes a sequence a copy of another, up to its cached tokens. Both have slots; only the difference is copied."""
        assert source.slot is not None
        assert target.slot is not None
        tokens = source.tokens[: source.cached]
        start = common(target.tokens, tokens, target.cached)
        target.cached = start  # all that it holds, should the copy fail
        if start < len(tokens):
            self._copy(source.slot, target.slot, start, len(tokens))
        target.tokens, target.cached, target.billed_tokens = tokens, len(tokens), source.billed_tokens

    def give_back(self, sequence: TokenSequence) -> None:
        """Frees a sequence's slot, which keeps its content."""
        assert sequence.slot is not None
        del self._busy[sequence.slot]
        adapter = None if sequence.adapter is None else weakref.ref(sequence.adapter)
        self._free[sequence.slot] = Kept(sequence.tokens[: sequence.cached], adapter)
        sequence.slot = None

    def clear(self) -> None:
        """Discards the content of free slots, after a failed step that could have written anywhere."""
        self._free = dict.fromkeys(self._free)

    def pending_prefix(self, sequence: TokenSequence) -> tuple[TokenSequence, int] | None:
        """Finds a sequence of the same tenant that is computing a longer shared prefix than any slot holds; and its length."""
        longest = self._best(sequence)[1] + WORTH_A_COPY - 1
        best = None
        for other in self._busy.values():
            if other.adapter is sequence.adapter and other.tenant == sequence.tenant and other.uncached > 1:
                shared = common(other.tokens, sequence.tokens, _findable(sequence))
                if shared > longest and shared > other.cached:
                    best, longest = (other, shared), shared
        return best

    def _best(self, sequence: TokenSequence) -> tuple[int, int]:
        """Finds the slot that shares the longest prefix with a sequence; and its length in tokens."""
        most = _findable(sequence)
        best, longest = -1, 0
        for slot, tokens in self._contents(sequence.adapter):
            shared = common(tokens, sequence.tokens, most)
            if shared > longest:
                best, longest = slot, shared
        return best, longest

    def _contents(self, adapter: Adapter | None) -> Iterator[tuple[int, Sequence[int]]]:
        """Yields the content of each slot under an adapter, free slots first."""
        for slot, kept in self._free.items():
            if kept is not None and (None if kept.adapter is None else kept.adapter()) is adapter:
                if adapter is None and kept.adapter is not None:
                    continue  # its adapter is gone; this is not the base's
                yield slot, kept.tokens
        for slot, other in self._busy.items():
            if other.adapter is adapter:
                yield slot, other.tokens[: other.cached]

    def _worth_it(self, slot: int, shared: int) -> bool:
        """Whether a free slot may lose what it holds beyond the shared tokens."""
        kept = self._free[slot]
        return kept is None or len(kept.tokens) - shared < WORTH_A_COPY


def _findable(sequence: TokenSequence) -> int:
    """Number of tokens that may come from the cache. The newest is always computed, as its logits are needed."""
    return 0 if sequence.all_logits else max(len(sequence.tokens) - 1, 0)


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Length of the shared prefix of two token lists, at most `most`."""
    most = min(most, len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(index for index in range(most) if one[index] != other[index])
