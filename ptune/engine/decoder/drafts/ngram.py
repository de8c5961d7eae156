"""Prompt-lookup speculation: proposes a sequence's next tokens from its own earlier text (Saxena 2023; Leviathan et al. 2023,
https://arxiv.org/abs/2211.17192, show why speculation changes no answer).

An answer that rewrites, quotes or fills in a form repeats its prompt. Where the last few tokens occurred before, the tokens
that followed them then are computed along with the newest one, in the same step; the model's own choices decide how many of
them are kept. A step with several tokens costs more than a step with one, so drafts become rarer when they fail.
"""

from __future__ import annotations

from collections.abc import Sequence

MATCH = 3  # tokens that must have occurred before
FIRST, LONGEST = 4, 12  # tokens of a draft, at first and at most
PATIENCE = 64  # longest pause after failed drafts, in tokens


class NgramProposer:
    """Proposes drafts for one sequence, whose tokens only ever grow."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # last position after each run of MATCH tokens
        self._indexed = 0
        self._length = FIRST
        self._pause = 0  # length of the last pause, in tokens
        self._resume = 0  # length that the sequence must reach before the next draft

    def propose(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Proposes at most `most` tokens to follow `tokens`; often none."""
        self._index(tokens)
        if len(tokens) < self._resume or most < 1:
            return ()
        position = self._after.get(tuple(tokens[-MATCH:]))
        if position is None:
            return ()
        return tuple(tokens[position : position + min(self._length, most)])

    def observe(self, tokens: int, proposed: int, accepted: int) -> None:
        """Records how many proposed tokens were accepted, and how many tokens the sequence has now."""
        if accepted == proposed:
            self._length, self._pause = min(2 * self._length, LONGEST), 0
        elif accepted:
            self._length, self._pause = max(accepted, 1), 0
        else:
            self._length = FIRST
            self._pause = min(max(2 * self._pause, 4), PATIENCE)
            self._resume = tokens + self._pause

    def _index(self, tokens: Sequence[int]) -> None:
        """Indexes every run but the last, which has no successor yet."""
        for end in range(max(self._indexed, MATCH), len(tokens)):
            self._after[tuple(tokens[end - MATCH : end])] = end
        self._indexed = max(len(tokens), self._indexed)
