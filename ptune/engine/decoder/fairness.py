"""Fair queueing: tenants share the engine by the work done for them, not by the number of their requests.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, https://arxiv.org/abs/2401.00588):
each tenant's counter grows by the cost of its tokens, divided by its weight, and the waiting tenant with the smallest counter
is admitted next. A tenant that returns after a rest is lifted to the smallest counter among those who wait: rest is not saved up.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ptune.engine.job import queue_full

if TYPE_CHECKING:
    from ptune.engine.decoder.sequence import TokenSequence

PROMPT_COST, OUTPUT_COST = 1.0, 2.0  # of a token, as in the paper
MOST_PREEMPTED = 3  # times that one sequence is preempted; after that it runs to its end
RESERVE = 8  # the part of the queue, one eighth, that a flood of others cannot keep a tenant out of


class FairQueue:
    """Waiting sequences, tenant by tenant, each tenant's in order of arrival; and a counter of each tenant's work."""

    def __init__(self, prompt_cost: float = PROMPT_COST, output_cost: float = OUTPUT_COST) -> None:
        self._prompt_cost, self._output_cost = prompt_cost, output_cost
        self._queues: dict[str, deque[TokenSequence]] = {}  # of tenants with a waiting sequence
        self._served: dict[str, float] = {}
        self._sequences: Counter[str] = Counter()  # of each tenant, waiting or running
        self._last = ""  # tenant whose queue became empty last
        self._floor = 0.0  # no tenant starts below

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[TokenSequence]:
        return (sequence for queue in self._queues.values() for sequence in queue)

    def waiting(self, tenant: str) -> int:
        """Number of a tenant's waiting sequences."""
        return len(self._queues.get(tenant, ()))

    def served(self, tenant: str) -> float:
        """A tenant's counter."""
        return self._served.get(tenant, 0.0)

    def queues(self) -> list[Sequence[TokenSequence]]:
        """Each tenant's waiting sequences, the least served tenant's first; no queue is empty."""
        return [self._queues[tenant] for tenant in sorted(self._queues, key=self.served)]

    def append(self, sequence: TokenSequence) -> None:
        """Adds a new sequence at the end of its tenant's queue."""
        if sequence.tenant not in self._queues:
            self._lift_counter(sequence.tenant)
        self._sequences[sequence.tenant] += 1
        self._queues.setdefault(sequence.tenant, deque()).append(sequence)

    def put_back(self, sequence: TokenSequence) -> None:
        """Returns a preempted sequence to the head of its tenant's queue."""
        self._queues.setdefault(sequence.tenant, deque()).appendleft(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Removes a sequence that no longer waits."""
        queue = self._queues[sequence.tenant]
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.tenant]
            self._last = sequence.tenant

    def charge_prompt(self, sequence: TokenSequence, on_disk: int = 0) -> None:
        """Charges for the prompt of a sequence just admitted; tokens found in the cache or on disk, or charged before, are free."""
        if not sequence.billed_tokens:
            self._charge(sequence, self._prompt_cost * (sequence.uncached - on_disk))
            sequence.billed_tokens = len(sequence.tokens)

    def charge_output(self, sequence: TokenSequence) -> None:
        """Charges for the tokens that a running sequence has gained since the last charge."""
        self._charge(sequence, self._output_cost * (len(sequence.tokens) - sequence.billed_tokens))
        sequence.billed_tokens = len(sequence.tokens)

    def forget(self, sequence: TokenSequence) -> None:
        """Stops counting a sequence that neither waits nor runs any more."""
        self._sequences[sequence.tenant] -= 1

    def _charge(self, sequence: TokenSequence, cost: float) -> None:
        self._served[sequence.tenant] = self.served(sequence.tenant) + cost / sequence.weight

    def _lift_counter(self, tenant: str) -> None:
        """Lifts a tenant that had nobody waiting to the lowest counter of those who wait; drops counters that a lift would reset."""
        floor = max(self._floor, min(map(self.served, self._queues or (self._last,))))
        self._floor = floor
        self._sequences += Counter()  # drops zeros
        self._served = {
            known: served
            for known, served in self._served.items()
            if served > floor or known in self._sequences or known in self._queues
        }
        self._served[tenant] = max(self.served(tenant), floor)


def giving_way(
    sequence: TokenSequence,
    running: Sequence[TokenSequence],
    queue: FairQueue,
    missing: int = 1,
    missing_positions: int = 0,
    part: int = sys.maxsize,
) -> list[TokenSequence]:
    """Chooses the running sequences whose slots and memory a waiting one takes, where its tenant has less than its share.

    missing, missing_positions: slots, and positions of the cache, needed beside the free ones; where so many cannot be had,
    nobody gives way. part: positions that are an equal part of the cache for each slot: whoever takes more memory than that
    counts as so many slots more (the dominant share of Ghodsi et al., NSDI 2011).

    Each victim belongs to the tenant that holds the most slots for its weight and keeps as many as the other has then; so
    two tenants never take from each other in turn. That tenant has been served no less than the other, whose running
    sequences are not counted against it: they are what its share is for. Of the tenant's sequences the victim is the one
    preempted least often, then the one that is cheapest to recompute. A sequence with prompt logprobs, which cannot be
    sent twice, is never preempted, and no sequence more than MOST_PREEMPTED times.
    """
    share = partial(_share, part=part)
    held = _held(running, part)
    served = queue.served(sequence.tenant)
    for other in running:
        if other.tenant == sequence.tenant:
            served -= sum(member.billed_tokens for member in other.group) / other.weight
    after = held.pop(sequence.tenant, 0.0) + share(sequence)
    candidates = [
        other
        for other in running
        if other.tenant in held
        and queue.served(other.tenant) >= served
        and not other.all_logits
        and other.preempted < MOST_PREEMPTED
    ]
    victims: list[TokenSequence] = []
    while missing > 0 or missing_positions > 0:
        candidates = [other for other in candidates if held[other.tenant] - share(other) >= after]
        if not candidates:
            return []
        victim = min(candidates, key=lambda other: _loss(other, held))
        candidates.remove(victim)
        held[victim.tenant] -= share(victim)
        victims.append(victim)
        missing -= len(victim.group)
        missing_positions -= victim.positions
    return victims


def first_to_go(running: Sequence[TokenSequence], part: int) -> TokenSequence:
    """Chooses the running sequence that is preempted because the cache is full; `part` as above.

    It is one of the tenant that holds the most, as above, the grower itself included. Where all were preempted often enough
    it is the one that began last, so that the first one goes on to its end. A sequence with prompt logprobs is left alone: it
    has its memory already and does not grow.
    """
    able = [other for other in running if not other.all_logits]
    held = _held(running, part)
    seldom = [other for other in able if other.preempted < MOST_PREEMPTED]
    return min(seldom, key=lambda other: _loss(other, held)) if seldom else able[-1]


def _held(running: Sequence[TokenSequence], part: int) -> dict[str, float]:
    """Share of each tenant that has a running sequence."""
    held: dict[str, float] = {}
    for sequence in running:
        held[sequence.tenant] = held.get(sequence.tenant, 0.0) + _share(sequence, part)
    return held


def _share(sequence: TokenSequence, part: int) -> float:
    """Slots of a sequence's group, or its part of the memory in slots, relative to its tenant's weight."""
    return max(len(sequence.group), sequence.positions / part) / sequence.weight


def _loss(sequence: TokenSequence, held: Mapping[str, float]) -> tuple[float, int, int]:
    """The smaller, the rather a sequence is preempted."""
    return -held[sequence.tenant], sequence.preempted, _cached(sequence)


def _cached(sequence: TokenSequence) -> int:
    """Tokens that would have to be recomputed."""
    return sum(member.cached - min(member.cached, member.virtual) for member in sequence.group)


def require_room(own: int, everybody: int, most: int) -> None:
    """Checks that a request may wait beside `own` others of its tenant and `everybody` altogether, where `most` may wait.

    One tenant may fill the queue alone. When it is full, a tenant with less than an eighth of it still gets in, until
    twice as many wait; so a flood is refused, and nobody else.

    Raises: RequestError, 429.
    """
    reserve = min(most, max(1, most // RESERVE))
    if everybody >= most and (own >= reserve or everybody >= 2 * most):
        raise queue_full(everybody)
