"""Which tokens are computed in the next step. A state machine in pure Python: no arrays, no clock, no thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptune.engine.slots import Copy, Slots

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ptune.engine.adapters import Adapter
    from ptune.engine.request import Finish


@dataclass(eq=False)
class Row:
    """One sequence on its way through the engine. Subclasses say what becomes of its logits."""

    tokens: list[int]  # prompt and output so far
    adapter: Adapter | None = None  # None = the bare base
    all_logits: bool = False  # wants the logits of every token, not only of the newest
    slot: int | None = field(default=None, init=False)  # its place in the cache while it runs
    cached: int = field(default=0, init=False)  # how many of `tokens` have been computed
    cancelled: bool = field(default=False, init=False)  # any thread may set it; obeyed before the next step
    finished: bool = field(default=False, init=False)

    @property
    def uncached(self) -> int:
        return len(self.tokens) - self.cached

    def guess(self, most: int) -> tuple[int, ...]:
        """Tokens that may follow the newest one, at most `most`, to be computed along with it."""
        return ()

    def take(self, chunk: Chunk, logits: npt.NDArray[np.float32]) -> None:
        """Consumes the logits [wanted, vocab] of a chunk that has been computed; may append the next token."""

    def end(self, finish: Finish, error: str | None = None) -> None:
        """Nothing more will come."""
        self.finished = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + count) of a row, and guesses at those that follow: what one step computes of it."""

    row: Row
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


class Scheduler:
    """Rows wait in order of arrival until a slot is free; running rows share each step.

    A step computes one token of every row that is generating and at most `prefill_chunk` tokens of those that still
    have more: so a long prompt delays nobody's next token by more than a chunk, and no row that runs ever starves.
    Rows that are generating may have `guesses` tokens more among them, while there are few of them.
    """

    def __init__(
        self,
        slots: int,
        prefill_chunk: int,
        max_waiting: int,
        guesses: int = 0,
        copy: Copy = lambda *_: None,
    ) -> None:
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []  # in order of arrival
        self.slots = Slots(slots, copy)
        self._prefill_chunk = prefill_chunk
        self._max_waiting = max_waiting
        self._guesses = guesses

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def full(self) -> bool:
        """Whether somebody who comes now should rather come back later."""
        return len(self.waiting) >= self._max_waiting

    def submit(self, row: Row) -> None:
        """Puts a row at the end of the queue."""
        self.waiting.append(row)

    def drop_cancelled(self) -> list[Row]:
        """Takes out the rows that were cancelled and returns them; their slots are free at once."""
        dropped = [row for row in (*self.running, *self.waiting) if row.cancelled]
        self.waiting = deque(row for row in self.waiting if not row.cancelled)
        self.release(dropped)
        return dropped

    def release(self, rows: list[Row]) -> None:
        """Takes rows out of the batch and frees their slots."""
        for row in rows:
            if row.slot is not None:
                self.running.remove(row)
                self.slots.give_back(row)

    def plan(self) -> list[Chunk]:
        """Admits rows while slots are free, then says what the next step computes. Empty where nothing is to do."""
        while self.waiting and self.slots:
            row = self.waiting.popleft()
            self.slots.take(row)
            self.running.append(row)
        generating = [row for row in self.running if row.uncached == 1]
        counts = self._share_out([row for row in self.running if row.uncached > 1])
        most = self._guesses // max(len(generating), 1)
        return [
            *(Chunk(row, row.cached, 1, row.guess(most) if most else ()) for row in generating),
            *(Chunk(row, row.cached, count) for row, count in counts.items()),
        ]

    def _share_out(self, prompts: list[Row]) -> dict[Row, int]:
        """Divides the step's prompt tokens among rows given in order of arrival.

        The first half is the oldest row's, so that none starves; the rest goes to those with the least left, so that
        a short prompt does not wait behind a long one.
        """
        left = self._prefill_chunk
        counts: dict[Row, int] = {}
        for row in prompts[:1]:
            counts[row] = min(row.uncached, (left + 1) // 2)
            left -= counts[row]
        for row in sorted(prompts, key=lambda row: row.uncached - counts.get(row, 0)):
            more = min(row.uncached - counts.get(row, 0), left)
            if more:
                counts[row] = counts.get(row, 0) + more
                left -= more
        return counts

    def computed(self, chunks: list[Chunk]) -> None:
        """Notes that a step has computed these chunks."""
        for chunk in chunks:
            chunk.row.cached = chunk.start + chunk.count
