"""Snapshots of states: where a sequence can be continued although the slot that computed its beginning has gone on.

Keys and values can be cut anywhere, but a layer's state is there for one place alone, the last token computed. So a sequence that
shares less than all of what a slot holds needs a copy of the state at that place. Copies are made at a few places of a prompt, the
first two as in Marconi (Pan et al., MLSys 2025, https://arxiv.org/abs/2411.19379):

- before its last token: further choices of the same prompt, the next turn of a chat whose answer is rendered otherwise, and
  prompts that begin with all of it continue there;
- where it turns away from another sequence whose beginning it shares, such as a system prompt: the second request computes the
  beginning once more and leaves the copy, from the third on it is found;
- where its adapter begins to act, for other adapters and the base, which compute the same up to there.

They are few (their rows), and the one that was used longest ago is replaced. Pure Python, as the scheduler is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ptune.engine.decoder.cache.kept import Kept
from ptune.engine.decoder.sequence import TokenSequence

CopyRow = Callable[[int, int], None]
"""Copies the states of a row, which is a slot's or a snapshot's, into another."""


class Snapshots:
    """Which rows hold the states after which tokens."""

    def __init__(self, rows: Sequence[int], copy: CopyRow, *, alone: bool = False) -> None:
        """rows: those of snapshots, which may be none. alone: all layers keep states, so that a snapshot needs no keys and values beside it."""
        self.rows = len(rows)
        self._free = [*rows]
        self.copy = copy
        self.alone = alone
        self._kept: dict[int, Kept] = {}  # by row; the one that was used longest ago first

    def __len__(self) -> int:
        """Number of snapshots that are kept."""
        return len(self._kept)

    def take(self, sequence: TokenSequence) -> None:
        """Copies the states of a sequence as they are now, unless they are kept already."""
        assert sequence.slot is not None
        length = sequence.cached
        for row, kept in self._kept.items():
            same = len(kept.tokens) == length and kept.shared_with(sequence) >= length
            if same and kept.tokens == sequence.tokens[:length]:
                self.used(row)
                return
        if self.rows:
            row = self._free.pop() if self._free else next(iter(self._kept))
            self._kept.pop(row, None)
            self.copy(sequence.slot, row)
            self._kept[row] = Kept.of(sequence)

    def of(self, sequence: TokenSequence, most: int) -> list[tuple[int, int]]:
        """Where a sequence could be continued: numbers of its tokens, at most `most`, and the rows of their states; the longest first."""
        found = [
            (len(kept.tokens), row)
            for row, kept in self._kept.items()
            if len(kept.tokens) <= min(most, kept.shared_with(sequence))
            and kept.tokens == sequence.tokens[: len(kept.tokens)]
        ]
        return sorted(found, reverse=True)

    def used(self, row: int) -> None:
        """Counts a row, if it is a snapshot's, as the one used last."""
        if row in self._kept:
            self._kept[row] = self._kept.pop(row)

    def clear(self) -> None:
        """Forgets all of them."""
        self._free += self._kept
        self._kept.clear()
