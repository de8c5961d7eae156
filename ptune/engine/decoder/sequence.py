"""A sequence on its way through the engine, and the chunk of it that one step computes. Pure Python: no arrays, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ptune.engine.adapters.lora import Adapter
    from ptune.engine.decoder.request import Finish


@dataclass(eq=False)
class TokenSequence:
    """One sequence on its way through the engine. Subclasses say what becomes of its logits."""

    tokens: list[int]  # prompt and output so far
    adapter: Adapter | None = None  # None = the bare base
    all_logits: bool = False  # wants the logits of every token, not only of the newest
    tenant: str = ""  # on whose account it is computed
    weight: float = 1.0  # of the tenant, beside others
    deadline_s: float = math.inf  # on the engine's clock
    slot: int | None = field(default=None, init=False)  # its place in the cache while it runs
    cached: int = field(default=0, init=False)  # how many of `tokens` have been computed
    cancelled: bool = field(default=False, init=False)  # any thread may set it; obeyed before the next step
    late: bool = field(default=False, init=False)  # its deadline has passed; obeyed as well
    finished: bool = field(default=False, init=False)
    charged: int = field(default=0, init=False)  # how many of `tokens` its tenant has been charged for
    preempted: int = field(default=0, init=False)  # how often it gave way
    behind: tuple[TokenSequence, int] | None = field(
        default=None, init=False
    )  # waits until that one has so many cached
    held_back: bool = field(default=False, init=False)  # has waited so; it does so once

    @property
    def rows(self) -> tuple[TokenSequence, ...]:
        """Itself, and those that begin, give way and end with it. Each has a slot, they alone are running or waiting for it."""
        return (self,)

    @property
    def uncached(self) -> int:
        return len(self.tokens) - self.cached

    @property
    def over(self) -> bool:
        """Whether nothing more is to be computed of it."""
        return self.cancelled or self.late

    def guess(self, most: int) -> tuple[int, ...]:
        """Tokens that may follow the newest one, at most `most`, to be computed along with it."""
        return ()

    def take(self, chunk: Chunk, logits: npt.NDArray[np.float32]) -> None:
        """Consumes the logits [wanted, vocab] of a chunk that has been computed; may append the next token."""

    def end(self, finish: Finish, error: str | None = None) -> None:
        """Nothing more will come."""
        self.finished = True

    def give_up(self) -> None:
        """Ends a row that is over."""
        self.end("cancelled")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + count) of a row, and guesses at those that follow: what one step computes of it."""

    row: TokenSequence
    start: int
    count: int
    guess: tuple[int, ...] = ()  # only where the chunk reaches the newest token

    def __len__(self) -> int:
        return self.count + len(self.guess)

    @property
    def tokens(self) -> list[int]:
        return [*self.row.tokens[self.start : self.start + self.count], *self.guess]

    @property
    def newest(self) -> bool:
        """Whether the chunk reaches the row's newest token, whose logits choose the next one."""
        return self.start + self.count == len(self.row.tokens)

    @property
    def wanted(self) -> range:
        """The chunk's columns whose logits are wanted."""
        return range(0 if self.row.all_logits else self.count - self.newest, len(self))
