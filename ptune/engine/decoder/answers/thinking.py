"""The budget of what is thought before an answer: when it is spent, the tokens of the mark that ends it are forced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from ptune.engine.sampling import require


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """A request's budget. Raises: RequestError where it is below 0."""

    tokens: int  # most of them between the marks
    begin: bytes  # the mark that begins the reasoning, at the beginning of an answer
    end: bytes  # the mark that ends it
    closing: tuple[int, ...]  # what is forced: the mark as tokens, with white space
    begun: bool  # by the prompt
    spell: Callable[[int], bytes]  # a token's bytes

    def __post_init__(self) -> None:
        require(self.tokens >= 0, "thinking_token_budget", "must be 0 or more", self.tokens)

    def count(self) -> ThinkingCount:
        """Begins to count one answer's."""
        return ThinkingCount(self)


class _State(Enum):
    BEFORE = auto()
    THINKING = auto()
    FORCED = auto()
    OVER = auto()


class ThinkingCount:
    """Counts what one answer thinks."""

    def __init__(self, budget: ThinkingBudget) -> None:
        self._budget = budget
        self._written = (
            b""  # since the last mark; of the reasoning only as much as may hold the beginning of the next
        )
        self._left = budget.tokens
        self._forced = list(reversed(budget.closing))
        self._state = _State.BEFORE
        if budget.begun:
            self._begin(b"")

    @property
    def forced(self) -> int | None:
        """The token that must come next; None if any may. Where a form does not let it come yet, `advance` takes another one."""
        return self._forced[-1] if self._state is _State.FORCED else None

    def advance(self, token: int) -> None:
        """Takes the next token of the answer."""
        if token == self.forced:
            self._forced.pop()
            self._state = _State.FORCED if self._forced else _State.OVER
        elif self._state is not _State.OVER:
            self._written += self._budget.spell(token)
            if self._state is _State.BEFORE:
                self._expect()
            else:
                self._think()

    def _expect(self) -> None:
        """The reasoning begins with its mark, perhaps after white space, or not at all."""
        written, begin = self._written.lstrip(), self._budget.begin
        if written.startswith(begin):
            self._begin(written[len(begin) :])
        elif not begin.startswith(written):
            self._state = _State.OVER

    def _begin(self, written: bytes) -> None:
        self._written = written
        self._state = _State.THINKING if self._left else _State.FORCED

    def _think(self) -> None:
        end = self._budget.end
        if end in self._written:
            self._state = _State.OVER
            return
        self._written = self._written[-len(end) + 1 :] if len(end) > 1 else b""
        self._left -= 1
        if self._left <= 0:
            self._state = _State.FORCED
