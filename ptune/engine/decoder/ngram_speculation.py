"""NgramProposer at a sequence's next tokens, from what it has said before (prompt look-up decoding, Saxena 2023; Leviathan et al. 2023,
https://arxiv.org/abs/2211.17192, for why guessing changes no answer).

Whoever rewrites, quotes or fills in a form repeats what stands in the prompt. So where the last few tokens have come before, the
tokens that followed them then are computed along with the newest one, in the same step; those that turn out to be what the
sequence says anyway are kept. A step with several tokens costs more than one with one, so guesses that fail are made
ever more rarely.
"""

from __future__ import annotations

from collections.abc import Sequence

MATCH = 3  # tokens that must have come before
FIRST, LONGEST = 4, 12  # tokens of a guess, in the beginning and at most
PATIENCE = 64  # tokens without a guess, at most, after guesses that failed


class NgramProposer:
    """The guesses for one sequence, whose tokens only ever grow."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # the last place after each run of MATCH tokens
        self._indexed = 0
        self._length = FIRST
        self._pause = 0  # how long the last one was
        self._resume = 0  # tokens that the sequence must have before the next guess

    def next(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """What may follow `tokens`: at most `most`, often nothing."""
        self._index(tokens)
        if len(tokens) < self._resume or most < 1:
            return ()
        place = self._after.get(tuple(tokens[-MATCH:]))
        if place is None:
            return ()
        return tuple(tokens[place : place + min(self._length, most)])

    def told(self, tokens: int, guessed: int, right: int) -> None:
        """Says how many of a guess's tokens were right, and how many tokens the sequence has now."""
        if right == guessed:
            self._length, self._pause = min(2 * self._length, LONGEST), 0
        elif right:
            self._length, self._pause = max(right, 1), 0
        else:
            self._length = FIRST
            self._pause = min(max(2 * self._pause, 4), PATIENCE)
            self._resume = tokens + self._pause

    def _index(self, tokens: Sequence[int]) -> None:
        """Remembers every run but the last, after which nothing has come yet."""
        for end in range(max(self._indexed, MATCH), len(tokens)):
            self._after[tuple(tokens[end - MATCH : end])] = end
        self._indexed = max(len(tokens), self._indexed)
