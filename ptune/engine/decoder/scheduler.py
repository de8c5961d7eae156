"""Chooses the tokens of the next step. A state machine in pure Python: no arrays, no clock, no thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.slots import Copy, Cut, Put, Slide, Slots
from ptune.engine.decoder.cache.snapshots import Snapshots
from ptune.engine.decoder.fairness import FairQueue, first_to_go, giving_way, require_room
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.token_budget import StepTimeModel, allocate_prefill

if TYPE_CHECKING:
    from ptune.engine.decoder.cache.idle import Idle

# Draft tokens for each generating sequence below which a step computes none: a few cost more than they bring, however right
# they are. More are needed where the sequences have different adapters, as each adapter's group of tokens becomes wider.
WORTH = 1 / 4
WORTH_MIXED = 3 / 4
# Tokens that a sequence must have room for beside its own when it starts, or it could be preempted before it has said a word.
HEADROOM = 64


class Scheduler:
    """Sequences wait, tenant by tenant, until a slot is free; running sequences share each step.

    A slot goes to the tenant that has been served least (see ptune.engine.decoder.fairness). Where none is free, a sequence
    of a tenant with more than its share is preempted and computed again later. A sequence that shares its prefix with
    one which is being computed waits until that prefix can be copied.

    A sequence that leads a group (see `TokenSequence.group`) is admitted when there is a slot for each member, and any sequence
    when its tokens find room in the cache's memory. Once it is its turn, free slots and memory are kept for it and nobody else
    is admitted, or sequences that need less would always be quicker.

    A running sequence takes memory as it grows: from prefixes that are kept, then from a sequence that is preempted for it.

    A step computes one token of every generating sequence and a limited number of prompt tokens: at most `prefill_chunk`,
    and no more than measured steps suggest for `step_s`. So a long prompt delays nobody's next token by more than that,
    and no running sequence starves. Generating sequences share up to `num_speculative_tokens` draft tokens, while the
    sequences are few and enough of them have a draft. A draft model proposes more, where there is one and no prompt is computed.
    """

    def __init__(
        self,
        slots: int,
        prefill_chunk: int,
        max_waiting: int,
        num_speculative_tokens: int = 0,
        copy: Copy = lambda *_: None,
        step_s: float | None = None,
        cut: Cut = lambda *_: None,
        budget: CacheBudget = CacheBudget(),
        draft_length: Callable[[int], int] = lambda _: 0,
        put: Put = lambda *_: None,
        snapshots: Snapshots | None = None,
        idle: Idle | None = None,
        slide: Slide = lambda *_: None,
    ) -> None:
        """draft_length: tokens that a draft model is to propose for each of so many generating sequences. snapshots, idle: as `Slots`."""
        self.waiting = FairQueue()
        self.running: list[TokenSequence] = []  # in order of admission
        self.slots = Slots(slots, copy, cut, budget, put, snapshots, idle, slide)
        self.preempted = 0  # sequences that lost their slots
        self._step_time = StepTimeModel(step_s, prefill_chunk)
        self._max_waiting = max_waiting
        self._num_speculative_tokens = num_speculative_tokens
        self._draft_length = draft_length

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def computing(self) -> list[TokenSequence]:
        """All sequences with slots: the running ones, each followed by the rest of its group."""
        return [sequence for leader in self.running for sequence in leader.group]

    def require_room(self, tenant: str, own: int = 0, others: int = 0) -> None:
        """Checks that one more request of a tenant may wait. own, others: requests that wait outside this queue.

        Raises: RequestError, 429, where the queue is full for this tenant.
        """
        waiting = self.waiting
        require_room(waiting.waiting(tenant) + own, len(waiting) + own + others, self._max_waiting)

    def submit(self, sequence: TokenSequence) -> None:
        """Puts a sequence at the end of its tenant's queue."""
        self.waiting.append(sequence)

    def drop_ended(self) -> list[TokenSequence]:
        """Removes the sequences that were cancelled or have expired, and returns them; their slots are free at once."""
        waiting = [sequence for sequence in self.waiting if sequence.ended]
        for sequence in waiting:
            self.waiting.remove(sequence)
            self.waiting.forget(sequence)
        running = [sequence for sequence in self.running if sequence.ended]
        self.release(running)
        return running + waiting

    def release(self, sequences: list[TokenSequence]) -> None:
        """Takes sequences out of the batch and frees their slots."""
        for sequence in sequences:
            if sequence.slot is not None:
                for member in sequence.group:
                    self.waiting.charge_output(member)
                self._stop(sequence)
                self.waiting.forget(sequence)

    def plan(self) -> list[Chunk]:
        """Admits sequences while there are slots, then returns the next step's chunks; none where there is nothing to do."""
        for sequence in self.computing:
            self.waiting.charge_output(sequence)
        self._grow()
        while (admitted := self._next()) is not None:
            self._admit(admitted)
        reading = self.slots.read_on()
        computing = [sequence for sequence in self.computing if sequence not in reading]
        generating = [sequence for sequence in computing if sequence.uncached == 1]
        prompts = [sequence for sequence in computing if sequence.uncached > 1]
        budget = self._step_time.prompt_tokens(len(generating))
        counts = allocate_prefill(budget, prompts, self.waiting.served)
        drafts = self._drafts(generating)
        rooms = {} if drafts or prompts else self._rooms(generating)
        return [
            *(
                Chunk(sequence, sequence.cached, 1, drafts.get(sequence, ()), rooms.get(sequence, 0))
                for sequence in generating
            ),
            *(
                Chunk(sequence, sequence.cached, sequence.at_once(count))
                for sequence, count in counts.items()
            ),
        ]

    def computed(self, chunks: list[Chunk], seconds: float | None = None) -> None:
        """Records that a step has computed these chunks, and the seconds that it took."""
        if seconds is not None:
            prompts = any(chunk.count > 1 for chunk in chunks)
            self._step_time.observe(sum(map(len, chunks)), seconds, prompts=prompts)
        for chunk in chunks:
            chunk.sequence.cached = chunk.start + chunk.count
            self.slots.computed(chunk.sequence)

    def invalidate_cache(self) -> list[TokenSequence]:
        """Discards everything computed, after a failed step that could have written anywhere.

        Returns sequences that cannot be recomputed because their prompt logprobs were already sent.
        """
        self.slots.clear()
        sent = [one for one in self.running if one.all_logits and one.cached > one.virtual]
        for sequence in self.computing:
            self.slots.restart(sequence)
        return sent

    def _grow(self) -> None:
        """Gives the running sequences memory for their new tokens, in order of admission, preempting some if need be."""
        for sequence in [*self.running]:
            while sequence.slot is not None and not self.slots.grow(sequence):
                self._preempt(first_to_go(self.running, self.slots.part))

    def _admit(self, sequence: TokenSequence) -> None:
        self.waiting.remove(sequence)
        for member in sequence.group:
            self.slots.allocate(member)
        self.slots.grow(sequence)
        self.running.append(sequence)
        self.waiting.charge_prompt(sequence, self.slots.on_disk(sequence))

    def _drafts(self, generating: Sequence[TokenSequence]) -> dict[TokenSequence, tuple[int, ...]]:
        """Draft tokens of a step, or none where they are too few: one sequence's second token widens the step for all."""
        most = self._num_speculative_tokens // max(len(generating), 1)
        drafts = {sequence: sequence.draft(most) for sequence in generating} if most else {}
        for sequence, draft in drafts.items():
            if draft and not self.slots.grow(sequence, len(draft)):
                drafts[sequence] = ()
        adapters = {sequence.plugged(sequence.cached) for sequence in generating} - {None}
        worth = WORTH_MIXED if len(adapters) > 1 else WORTH
        return drafts if sum(map(len, drafts.values())) >= worth * len(generating) else {}

    def _rooms(self, generating: Sequence[TokenSequence]) -> dict[TokenSequence, int]:
        """How many tokens a draft model may propose for each sequence, in a step that has no other drafts."""
        length = self._draft_length(len(generating))
        rooms = {sequence: sequence.most_drafted(length) for sequence in generating} if length else {}
        return {
            sequence: most for sequence, most in rooms.items() if most and self.slots.grow(sequence, most)
        }

    def _next(self) -> TokenSequence | None:
        """Chooses the sequence to be admitted now, preempting others for it if need be; None where there is none."""
        for queue in self.waiting.queues():
            if self.slots or self._giving_way(queue[0]):
                sequence = next(filter(self._ready, queue), None)
                if sequence is not None:
                    victims = self._giving_way(sequence)
                    if not victims and max(self._missing(sequence)) > 0:
                        return None  # it is its turn: free slots and memory are kept for it
                    for victim in victims:
                        self._preempt(victim)
                    return sequence
        return None

    def _giving_way(self, sequence: TokenSequence) -> list[TokenSequence]:
        """Returns the running sequences that would be preempted for a waiting one."""
        missing = self._missing(sequence)
        if max(missing) <= 0:
            return []
        return giving_way(sequence, self.running, self.waiting, *missing, part=self.slots.part)

    def _missing(self, sequence: TokenSequence) -> tuple[int, int]:
        """Slots, and positions of the cache, that a waiting sequence needs beside the free ones."""
        sequence.positions = self.slots.positions(sequence, HEADROOM)
        return len(sequence.group) - len(self.slots), sequence.positions - self.slots.unclaimed

    def _preempt(self, sequence: TokenSequence) -> None:
        """Takes a sequence's slot away; it waits, with its output so far, to be computed again from its beginning."""
        self._stop(sequence)
        for member in sequence.group:
            member.cached = 0
        sequence.preempted += 1
        self.preempted += 1
        self.waiting.put_back(sequence)

    def _stop(self, sequence: TokenSequence) -> None:
        self.running.remove(sequence)
        for member in sequence.group:
            self.slots.give_back(member)

    def _ready(self, sequence: TokenSequence) -> bool:
        """Whether to admit a sequence now, rather than let it wait for a shared prefix that is being computed."""
        if not sequence.deferred:
            sequence.prefix_leader = self.slots.pending_prefix(sequence)
            sequence.deferred = sequence.prefix_leader is not None
            if sequence.prefix_leader is not None:
                self.slots.keep_states_at(*sequence.prefix_leader)
        if sequence.prefix_leader is not None:
            leader, shared = sequence.prefix_leader
            if leader.slot is not None and leader.cached < shared:
                return False
            sequence.prefix_leader = None
        return True
