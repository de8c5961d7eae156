"""How many tokens the KV cache may hold at once, counted in the pages that they take. Arithmetic only."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class CacheBudget:
    """A slot takes memory as it is written, in pages of `page` positions in each layer and head; all slots share `tokens`."""

    tokens: int = sys.maxsize  # positions that all slots may hold together
    page: int = 1  # positions that fill whole pages
    spare: int = 0  # positions behind a sequence's last token that a step may write
    slot: int = sys.maxsize  # positions that one slot has
    window: int = 0  # positions before its next token that a sequence needs in layers with a window; 0: no layer has one
    windowed: Fraction = Fraction(0)  # the share of a position's bytes in such layers

    def positions(self, tokens: int) -> int:
        """Positions that a sequence of so many tokens takes, rounded up to pages; none where it has no tokens."""
        return min(-(-(tokens + self.spare) // self.page) * self.page, self.slot) if tokens else 0

    def behind(self, cached: int) -> int:
        """Positions, in whole pages, that no query of a sequence with so many computed tokens will see in layers with a window."""
        return max(0, cached - self.window) // self.page * self.page if self.window else 0

    def saved(self, slid: int) -> int:
        """Positions of all layers that take as much memory as so many of those with a window, rounded down."""
        return int(slid * self.windowed)

    def longest(self, sequences: int = 1) -> int:
        """Most tokens that each of so many sequences may have, so that all of them fit at once."""
        each = self.tokens // sequences
        return self.slot if each >= self.slot else max(each // self.page * self.page - self.spare, 0)
