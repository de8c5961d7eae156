"""Which tokens are computed in the next step. A state machine in pure Python: no arrays, no clock, no thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.engine.decoder.fairness import FairQueue, giving_way, require_room
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.slots import Copy, Slots
from ptune.engine.decoder.token_budget import StepTimeModel, allocate_prefill

if TYPE_CHECKING:
    pass


# Guessed tokens for each row that is generating; fewer cost more than they bring, however right they are. More are needed where
# rows have different adapters, as each adapter's group of tokens becomes wider.
WORTH = 1 / 4
WORTH_MIXED = 3 / 4


class Scheduler:
    """Rows wait, tenant by tenant, until a slot is free; running rows share each step.

    A slot goes to the tenant that has been served least (see ptune.engine.decoder.fairness); where none is free, a row of a
    tenant with more than its share gives way and is computed again later. A row whose beginning is just being computed
    for another waits until it can be copied.

    A row may bring others (see `TokenSequence.rows`), and begins when there is a slot for each. While it waits for that and it is
    its turn, free slots are kept for it: nobody begins before it, or rows that need one slot would always be quicker.

    A step computes one token of every row that is generating and a limited number of tokens of those that still have
    more: at most `prefill_chunk`, and no more than fit into `step_s` as far as measured steps tell. So a long prompt
    delays nobody's next token by more than that, and no row that runs ever starves.
    Rows that are generating may have `guesses` tokens more among them, while there are few rows and enough of them guess.
    """

    def __init__(
        self,
        slots: int,
        prefill_chunk: int,
        max_waiting: int,
        guesses: int = 0,
        copy: Copy = lambda *_: None,
        step_s: float | None = None,
    ) -> None:
        self.waiting = FairQueue()
        self.running: list[TokenSequence] = []  # in the order in which they began
        self.slots = Slots(slots, copy)
        self.preempted = 0  # rows that gave way
        self._pace = StepTimeModel(step_s, prefill_chunk)
        self._max_waiting = max_waiting
        self._guesses = guesses

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def computing(self) -> list[TokenSequence]:
        """All that have slots: the running rows, each followed by those that it brought."""
        return [row for leader in self.running for row in leader.rows]

    def require_room(self, tenant: str, own: int = 0, others: int = 0) -> None:
        """Lets a tenant's request wait, beside those that wait elsewhere: its own and those of others.

        Raises: RequestError, 429, where somebody who comes now should rather come back later.
        """
        waiting = self.waiting
        require_room(waiting.waiting(tenant) + own, len(waiting) + own + others, self._max_waiting)

    def submit(self, row: TokenSequence) -> None:
        """Puts a row at the end of its tenant's queue."""
        self.waiting.append(row)

    def drop_over(self) -> list[TokenSequence]:
        """Takes out the rows that were cancelled or are late and returns them; their slots are free at once."""
        waiting = [row for row in self.waiting if row.over]
        for row in waiting:
            self.waiting.remove(row)
            self.waiting.left(row)
        running = [row for row in self.running if row.over]
        self.release(running)
        return running + waiting

    def release(self, rows: list[TokenSequence]) -> None:
        """Takes rows out of the batch and frees their slots."""
        for row in rows:
            if row.slot is not None:
                for member in row.rows:
                    self.waiting.grown(member)
                self._stop(row)
                self.waiting.left(row)

    def plan(self) -> list[Chunk]:
        """Admits rows while there are slots, then says what the next step computes. Empty where nothing is to do."""
        for row in self.computing:
            self.waiting.grown(row)
        while (begins := self._next()) is not None:
            self.waiting.remove(begins)
            for row in begins.rows:
                self.slots.take(row)
            self.running.append(begins)
            self.waiting.begun(begins)
        generating = [row for row in self.computing if row.uncached == 1]
        prompts = [row for row in self.computing if row.uncached > 1]
        counts = allocate_prefill(self._pace.prompt_tokens(len(generating)), prompts, self.waiting.served)
        guesses = self._guesses_of(generating)
        return [
            *(Chunk(row, row.cached, 1, guesses.get(row, ())) for row in generating),
            *(Chunk(row, row.cached, count) for row, count in counts.items()),
        ]

    def computed(self, chunks: list[Chunk], seconds: float | None = None) -> None:
        """Notes that a step has computed these chunks, and what it took."""
        if seconds is not None:
            prompts = any(chunk.count > 1 for chunk in chunks)
            self._pace.told(sum(map(len, chunks)), seconds, prompts=prompts)
        for chunk in chunks:
            chunk.row.cached = chunk.start + chunk.count

    def distrust(self) -> list[TokenSequence]:
        """After a step that failed and could have written anywhere: what was computed is computed again.

        Returns the running rows for which that cannot be, as they have told logits of their prompts already.
        """
        self.slots.forget()
        told = [row for row in self.running if row.all_logits and row.cached]
        for row in self.computing:
            row.cached = 0
        return told

    def _guesses_of(self, generating: Sequence[TokenSequence]) -> dict[TokenSequence, tuple[int, ...]]:
        """Guesses of a step, or none where they are too few: one row's second token makes room for one in all of them."""
        most = self._guesses // max(len(generating), 1)
        found = {row: row.guess(most) for row in generating} if most else {}
        adapters = {row.adapter for row in generating} - {None}
        worth = WORTH_MIXED if len(adapters) > 1 else WORTH
        return found if sum(map(len, found.values())) >= worth * len(generating) else {}

    def _next(self) -> TokenSequence | None:
        """The row that begins now; slots are free for it and those that it brings."""
        for queue in self.waiting.queues():
            if self.slots or self._giving_way(queue[0]):
                row = next(filter(self._ready, queue), None)
                if row is not None:
                    victims = self._giving_way(row)
                    if len(self.slots) + sum(len(victim.rows) for victim in victims) < len(row.rows):
                        return None  # it is its turn: what is free is kept for it
                    for victim in victims:
                        self._preempt(victim)
                    return row
        return None

    def _giving_way(self, row: TokenSequence) -> list[TokenSequence]:
        """Who makes room for a waiting row."""
        missing = len(row.rows) - len(self.slots)
        return giving_way(row, self.running, self.waiting, missing) if missing > 0 else []

    def _preempt(self, row: TokenSequence) -> None:
        """A row gives its slot away and waits, with what it has said so far, to be computed again from its beginning."""
        self._stop(row)
        for member in row.rows:
            member.cached = 0
        row.preempted += 1
        self.preempted += 1
        self.waiting.put_back(row)

    def _stop(self, row: TokenSequence) -> None:
        self.running.remove(row)
        for member in row.rows:
            self.slots.give_back(member)

    def _ready(self, row: TokenSequence) -> bool:
        """Whether a row should begin, rather than wait for another that is computing what both begin with."""
        if not row.held_back:
            row.behind = self.slots.coming(row)
            row.held_back = row.behind is not None
        if row.behind is not None:
            leader, shared = row.behind
            if leader.slot is not None and leader.cached < shared:
                return False
            row.behind = None
        return True
