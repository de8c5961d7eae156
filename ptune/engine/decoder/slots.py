"""Which place in the KV cache a sequence gets, and what it finds there: a prefix that was computed before is not computed again.

A slot keeps what was computed in it until somebody else needs it. A new sequence that begins as a slot's content does, under
the same adapter, goes on in that slot; or, where the slot is busy or holds more than they share, gets a copy. As a token's
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
"""Copies tokens of a slot into another: from, to, the first one's place, the place behind the last one."""


@dataclass(frozen=True)
class Kept:
    """What a free slot still holds."""

    tokens: list[int]
    adapter: weakref.ref[Adapter] | None  # weak: kept tokens keep no adapter in memory; None = the bare base


class Slots:
    """Free and busy places, numbered from 0."""

    def __init__(self, count: int, copy: Copy) -> None:
        self._copy = copy
        self._free: dict[int, Kept | None] = dict.fromkeys(
            range(count)
        )  # the one that was freed longest ago first
        self._busy: dict[int, TokenSequence] = {}
        self.reused = 0  # tokens that were found, not computed

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    @property
    def free(self) -> list[int]:
        """Those that nobody has, in the order in which they are given away."""
        return list(self._free)

    def take(self, row: TokenSequence) -> None:
        """Gives a row a free slot, and notes in it which of its tokens are computed already."""
        source, shared = self._best(row)
        if source in self._free and self._worth_it(source, shared):
            slot = source
        else:
            slot = next(iter(self._free))
            shared = shared if shared >= WORTH_A_COPY or slot == source else 0
            if shared and source != slot:
                self._copy(source, slot, 0, shared)
        del self._free[slot]
        self._busy[slot] = row
        row.slot, row.cached = slot, shared
        self.reused += shared

    def fork(self, source: TokenSequence, target: TokenSequence) -> None:
        """Makes a row what another has computed so far. Both have slots; only what differs is copied."""
        assert source.slot is not None
        assert target.slot is not None
        tokens = source.tokens[: source.cached]
        start = common(target.tokens, tokens, target.cached)
        target.cached = start  # it holds no more, should the copy fail
        if start < len(tokens):
            self._copy(source.slot, target.slot, start, len(tokens))
        target.tokens, target.cached, target.charged = tokens, len(tokens), source.charged

    def give_back(self, row: TokenSequence) -> None:
        """Frees a row's slot, which keeps what was computed in it."""
        assert row.slot is not None
        del self._busy[row.slot]
        adapter = None if row.adapter is None else weakref.ref(row.adapter)
        self._free[row.slot] = Kept(row.tokens[: row.cached], adapter)
        row.slot = None

    def forget(self) -> None:
        """What free slots hold is no longer trusted: a step has failed that could have written anywhere."""
        self._free = dict.fromkeys(self._free)

    def coming(self, row: TokenSequence) -> tuple[TokenSequence, int] | None:
        """Who of its tenant is just computing more of what a row begins with than can be found by now, and how many tokens."""
        found = self._best(row)[1] + WORTH_A_COPY - 1
        best = None
        for other in self._busy.values():
            if other.adapter is row.adapter and other.tenant == row.tenant and other.uncached > 1:
                shared = common(other.tokens, row.tokens, _findable(row))
                if shared > found and shared > other.cached:
                    best, found = (other, shared), shared
        return best

    def _best(self, row: TokenSequence) -> tuple[int, int]:
        """The slot whose content has the longest common beginning with a row, and how long that is."""
        most = _findable(row)
        best, longest = -1, 0
        for slot, tokens in self._contents(row.adapter):
            shared = common(tokens, row.tokens, most)
            if shared > longest:
                best, longest = slot, shared
        return best, longest

    def _contents(self, adapter: Adapter | None) -> Iterator[tuple[int, Sequence[int]]]:
        """What was computed under an adapter, slot by slot; free ones first."""
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


def _findable(row: TokenSequence) -> int:
    """Tokens that need not be computed where they are found. The newest is in any case: its logits are wanted."""
    return 0 if row.all_logits else max(len(row.tokens) - 1, 0)


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two sequences have in common from their beginnings, at most `most`."""
    most = min(most, len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(place for place in range(most) if one[place] != other[place])
