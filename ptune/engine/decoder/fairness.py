"""Whose turn it is: tenants share the engine by what has been computed for them, not by how much they ask for.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, https://arxiv.org/abs/2401.00588):
each tenant's counter grows by what its tokens cost, divided by its weight, and whoever waits with the smallest counter begins
next. A tenant that comes back after a rest is lifted to the smallest counter among those who wait: rest is not saved up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ptune.engine.adapters.registry import queue_full

if TYPE_CHECKING:
    from ptune.engine.decoder.sequence import TokenSequence

PROMPT_COST, OUTPUT_COST = 1.0, 2.0  # of a token, as in the paper
MOST_PREEMPTED = 3  # times that one row gives way; after that it runs to its end
RESERVE = 8  # the part of the queue, one eighth, that a flood of others cannot keep a tenant out of


class FairQueue:
    """Rows that wait, tenant by tenant, each tenant's in order of arrival; and what each tenant has been served."""

    def __init__(self, prompt_cost: float = PROMPT_COST, output_cost: float = OUTPUT_COST) -> None:
        self._prompt_cost, self._output_cost = prompt_cost, output_cost
        self._queues: dict[str, deque[TokenSequence]] = {}  # of tenants with somebody who waits
        self._served: dict[str, float] = {}
        self._rows: Counter[str] = Counter()  # of each tenant, waiting or running
        self._last = ""  # who left the queue last
        self._floor = 0.0  # no tenant begins below

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[TokenSequence]:
        return (row for queue in self._queues.values() for row in queue)

    def waiting(self, tenant: str) -> int:
        """How many rows of a tenant wait."""
        return len(self._queues.get(tenant, ()))

    def served(self, tenant: str) -> float:
        """A tenant's counter."""
        return self._served.get(tenant, 0.0)

    def queues(self) -> list[Sequence[TokenSequence]]:
        """Each tenant's rows, none of them empty, the least served tenant's first."""
        return [self._queues[tenant] for tenant in sorted(self._queues, key=self.served)]

    def append(self, row: TokenSequence) -> None:
        """A new row, at the end of its tenant's queue."""
        if row.tenant not in self._queues:
            self._lift(row.tenant)
        self._rows[row.tenant] += 1
        self._queues.setdefault(row.tenant, deque()).append(row)

    def put_back(self, row: TokenSequence) -> None:
        """A row that had begun, before all others of its tenant."""
        self._queues.setdefault(row.tenant, deque()).appendleft(row)

    def remove(self, row: TokenSequence) -> None:
        """A row that waits no longer."""
        queue = self._queues[row.tenant]
        queue.remove(row)
        if not queue:
            del self._queues[row.tenant]
            self._last = row.tenant

    def begun(self, row: TokenSequence) -> None:
        """Charges for a prompt that will be computed now; what was found in the cache, or charged before, costs nothing."""
        if not row.charged:
            self._charge(row, self._prompt_cost * row.uncached)
            row.charged = len(row.tokens)

    def grown(self, row: TokenSequence) -> None:
        """Charges for the tokens that a running row has said since."""
        self._charge(row, self._output_cost * (len(row.tokens) - row.charged))
        row.charged = len(row.tokens)

    def left(self, row: TokenSequence) -> None:
        """A row that neither waits nor runs any more."""
        self._rows[row.tenant] -= 1

    def _charge(self, row: TokenSequence, cost: float) -> None:
        self._served[row.tenant] = self.served(row.tenant) + cost / row.weight

    def _lift(self, tenant: str) -> None:
        """A tenant that had nobody waiting starts no lower than those who wait. Who would be lifted as well is forgotten."""
        floor = max(self._floor, min(map(self.served, self._queues or (self._last,))))
        self._floor = floor
        self._rows += Counter()  # drops zeros
        self._served = {
            known: served
            for known, served in self._served.items()
            if served > floor or known in self._rows or known in self._queues
        }
        self._served[tenant] = max(self.served(tenant), floor)


def giving_way(
    row: TokenSequence, running: Sequence[TokenSequence], queue: FairQueue, missing: int = 1
) -> list[TokenSequence]:
    """The running rows whose slots a waiting one may have, where its tenant is short of its share by what it needs at least.

    missing: slots that it needs beside those that are free; where that many cannot be had, nobody gives way.

    Each is of the tenant that holds the most slots for its weight, and is left with as many as the other has then; so two
    tenants never take from each other in turn. It has been served no less than the other, whose running rows are not
    held against it: they are what it gets its share for. Of that tenant's rows it is the one that gave way least often,
    then the one that is cheapest to compute again; a row that wants logits of its prompt, which cannot be told twice,
    never gives way, and none more than MOST_PREEMPTED times.
    """
    held: dict[str, float] = {}
    served = queue.served(row.tenant)
    for other in running:
        held[other.tenant] = held.get(other.tenant, 0.0) + _share(other)
        if other.tenant == row.tenant:
            served -= sum(member.charged for member in other.rows) / other.weight
    after = held.pop(row.tenant, 0.0) + _share(row)
    candidates = [
        other
        for other in running
        if other.tenant in held
        and queue.served(other.tenant) >= served
        and not other.all_logits
        and other.preempted < MOST_PREEMPTED
    ]
    found: list[TokenSequence] = []
    while sum(len(other.rows) for other in found) < missing:
        candidates = [other for other in candidates if held[other.tenant] - _share(other) >= after]
        if not candidates:
            return []
        gives = min(candidates, key=lambda other: (-held[other.tenant], other.preempted, _cached(other)))
        candidates.remove(gives)
        held[gives.tenant] -= _share(gives)
        found.append(gives)
    return found


def _share(row: TokenSequence) -> float:
    """What a row and those that it brings take of its tenant's share of slots."""
    return len(row.rows) / row.weight


def _cached(row: TokenSequence) -> int:
    """Tokens that would have to be computed again."""
    return sum(member.cached for member in row.rows)


def require_room(own: int, everybody: int, most: int) -> None:
    """Lets a request wait beside `own` others of its tenant and `everybody` altogether, where `most` may wait.

    One tenant may fill the queue alone. When it is full, a tenant with less than an eighth of it still gets in, until
    twice as many wait; so a flood is refused, and nobody else.

    Raises: RequestError, 429.
    """
    reserve = min(most, max(1, most // RESERVE))
    if everybody >= most and (own >= reserve or everybody >= 2 * most):
        raise queue_full(everybody)
