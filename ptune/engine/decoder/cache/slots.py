"""Slots of the KV cache and the prefixes they hold: a prefix that was computed before is not computed again.

A slot keeps its content until another sequence needs the slot. A new sequence that shares a prefix with that content, under
the same adapter, or where neither's adapter acts yet, continues in the slot; where the slot is busy or holds more than the
prefix, it gets a copy. As a token's numbers do not depend on what it was computed with, this changes no answer. Virtual tokens
of an adapter are never computed: they are copied from the adapter where no slot has them.

What slots have in memory is counted in positions of the cache, and never more than the budget: sequences take what they need
of what kept prefixes hold, from the ends of those that were freed longest ago.

Where layers keep states, a sequence continues only where there are states after exactly so many tokens: after all that a slot has
computed, or at a snapshot (ptune.engine.decoder.cache.snapshots).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.kept import Kept, alike, common
from ptune.engine.decoder.cache.snapshots import Snapshots

if TYPE_CHECKING:
    from ptune.engine.adapters.prefix import Prefix
    from ptune.engine.decoder.cache.idle import Idle
    from ptune.engine.decoder.cache.kv_blocks import Block
    from ptune.engine.decoder.sequence import TokenSequence

WORTH_A_COPY = 16  # tokens
LEAST_CUT = (
    256  # positions that a kept prefix loses at once, since each cut takes a call for each layer and head
)
Copy = Callable[[int, int, int, int], None]
"""Copies cached tokens between slots: source, target, first position, position after the last."""
Cut = Callable[[int, int], None]
"""Gives the memory of a slot behind a position back."""
Slide = Callable[[int, int], None]
"""Gives the memory of a slot before a position back, in layers with a window."""
Put = Callable[[int, "Prefix"], None]
"""Copies keys and values of virtual tokens into a slot, from its first position on."""


class Found(NamedTuple):
    """Where the beginning of a sequence was computed."""

    slot: int  # that has its keys and values; -1: none
    shared: int  # tokens from which on it can be continued
    row: int | None = (
        None  # that has the states after them: a slot or a snapshot; None: of no tokens, or of a model without states
    )
    known: int = 0  # tokens that it shares with any slot, though there may be no states after them


class Slots:
    """Free and busy slots, numbered from 0."""

    def __init__(
        self,
        count: int,
        copy: Copy,
        cut: Cut = lambda *_: None,
        budget: CacheBudget = CacheBudget(),
        put: Put = lambda *_: None,
        snapshots: Snapshots | None = None,
        idle: Idle | None = None,
        slide: Slide = lambda *_: None,
    ) -> None:
        """snapshots: of the states of a model some of whose layers keep them; None for other models. idle: keeps on disk what slots lose."""
        self._copy, self._cut_memory, self._put, self._slide_memory = copy, cut, put, slide
        self._idle = idle
        self._reading: dict[TokenSequence, deque[Block]] = {}  # whose next tokens lie on disk
        self._budget = budget
        self._snapshots = snapshots
        self._held = [0] * count  # positions of each slot that are in memory, at most
        self._slid = [0] * count  # of these, the first ones that layers with a window have given back
        self._free: dict[int, Kept | None] = dict.fromkeys(
            range(count)
        )  # the one that was freed longest ago first
        self._busy: dict[int, TokenSequence] = {}
        self.reused = 0  # tokens found in the cache instead of computed

    def __len__(self) -> int:
        """Number of free slots."""
        return len(self._free)

    @property
    def free(self) -> list[int]:
        """Free slots in the order in which they are allocated."""
        return list(self._free)

    @property
    def part(self) -> int:
        """Positions that are an equal part of the budget for each slot."""
        return max(1, self._budget.tokens // len(self._held))

    @property
    def unclaimed(self) -> int:
        """Positions that sequences do not hold, though kept prefixes may."""
        return self._budget.tokens - sum(map(self._least, self._busy))

    def _taken(self, slot: int) -> int:
        """Memory of a slot, in positions of all layers."""
        return self._held[slot] - self._budget.saved(self._slid[slot])

    def _least(self, slot: int) -> int:
        """Memory of a slot, once windows have given back what no query of its sequence will see."""
        return self._held[slot] - self._budget.saved(max(self._slid[slot], self._behind(slot)))

    def _behind(self, slot: int) -> int:
        """Positions of a slot that are behind the windows of what it holds."""
        if (sequence := self._busy.get(slot)) is not None:
            return self._budget.behind(sequence.cached)
        kept = self._free[slot]
        return 0 if kept is None else self._budget.behind(len(kept.tokens))

    def positions(self, sequence: TokenSequence, more: int = 0) -> int:
        """Positions that a sequence's group takes with so many more tokens each."""
        longest = max(len(member.tokens) for member in sequence.group)
        return len(sequence.group) * self._budget.positions(min(longest + more, sequence.most_tokens))

    def grow(self, sequence: TokenSequence, more: int = 0) -> bool:
        """Takes memory for the tokens of a running sequence's group, and so many more each; False where there is not enough."""
        positions = self.positions(sequence, more)
        wanted = positions // len(sequence.group)
        slots = [member.slot for member in sequence.group if member.slot is not None]
        if not self._make_room(sum(max(0, wanted - self._held[slot]) for slot in slots)):
            return False
        for slot in slots:
            self._held[slot] = max(self._held[slot], wanted)
        sequence.positions = sum(map(self._least, slots))
        return True

    def allocate(self, sequence: TokenSequence) -> None:
        """Gives a sequence a free slot and memory, and sets `cached` to the tokens it finds there."""
        found = self._best(sequence)
        source, shared = found.slot, found.shared
        wanted = self._budget.positions(len(sequence.tokens))
        if source in self._free and (self._worth_it(source, shared) or wanted > self._beside(source)):
            slot = source
        else:
            slot = next(iter(self._free))
            shared = shared if shared >= WORTH_A_COPY or slot == source else 0
        if (kept := self._free.pop(slot)) is not None:
            goes_on = slot == source and kept.owner is not None and kept.owner.tenant == sequence.tenant
            self._leave(slot, kept, shared if goes_on else 0)
        self._busy[slot] = sequence
        self._shrink(slot, wanted if slot == source or not self._slid[slot] else 0)
        if not self._make_room(wanted - self._held[slot], spared=source):
            shared = shared if slot == source else 0  # the source's windows give memory back, too
            self._make_room(wanted - self._held[slot])
        self._held[slot] = wanted
        sequence.slot, sequence.cached = slot, shared
        if shared and source not in (-1, slot):
            self._copy(source, slot, 0, shared)
            self._slide(slot, self._slid[source])
        if self._snapshots is not None:
            self._continue(sequence, found, self._snapshots)
        self._count(sequence, max(0, shared - sequence.virtual))
        if shared < sequence.virtual:
            self.restart(sequence)
        if self._idle is not None and (
            blocks := self._idle.beyond(sequence, sequence.cached, _findable(sequence))
        ):
            self._reading[sequence] = deque(blocks)

    def _count(self, sequence: TokenSequence, found: int) -> None:
        """Counts tokens that a sequence found in the cache; where it was preempted they may be those that it left itself."""
        self.reused += found
        if not sequence.preempted:
            sequence.reused += found

    def read_on(self) -> Collection[TokenSequence]:
        """Reads one block from disk, for the sequence that has waited longest; returns those that wait for more.

        One for each step, so that answers which are being generated go on.
        """
        for sequence, blocks in self._reading.items():
            assert self._idle is not None
            assert sequence.slot is not None
            block, before = blocks.popleft(), sequence.cached
            if self._idle.read(sequence.slot, block):
                self._slide_memory(sequence.slot, self._slid[sequence.slot])  # what windows have gone past
                sequence.cached = max(before, min(block.stop, _findable(sequence)))
                self._count(sequence, sequence.cached - before)
            else:
                blocks.clear()  # the rest is computed
            if not blocks:
                del self._reading[sequence]
            break
        return self._reading

    def on_disk(self, sequence: TokenSequence) -> int:
        """Number of tokens that a sequence waits to have read."""
        blocks = self._reading.get(sequence)
        return min(blocks[-1].stop, _findable(sequence)) - sequence.cached if blocks else 0

    def _continue(self, sequence: TokenSequence, found: Found, snapshots: Snapshots) -> None:
        """Gives a sequence the states after the tokens that it found, and marks where it will leave some itself."""
        assert sequence.slot is not None
        if sequence.cached and found.row is not None and found.row != sequence.slot:
            snapshots.copy(found.row, sequence.slot)
            snapshots.used(found.row)
        begins = sequence.acts_from if sequence.acts_from < len(sequence.tokens) else 0
        places = (found.known, begins, _findable(sequence)) if snapshots.rows else ()
        sequence.stops = {place for place in places if place >= max(WORTH_A_COPY, sequence.cached + 1)}

    def keep_states_at(self, sequence: TokenSequence, place: int) -> None:
        """Has a sequence leave its states where it has so many tokens, for one that waits for them."""
        if self._snapshots is not None:
            sequence.stops.add(place)

    def computed(self, sequence: TokenSequence) -> None:
        """Keeps the states of a sequence that has come to a place where they are wanted."""
        if self._snapshots is not None and sequence.cached in sequence.stops:
            self._snapshots.take(sequence)

    def restart(self, sequence: TokenSequence) -> None:
        """Lets a sequence with a slot begin anew: behind its virtual tokens, which are put there."""
        self._reading.pop(sequence, None)
        sequence.cached = 0
        if sequence.slot is not None and self._slid[sequence.slot]:
            self._shrink(sequence.slot, 0)
        if sequence.virtual:
            assert sequence.slot is not None
            assert sequence.adapter is not None
            assert sequence.adapter.prefix is not None
            self._put(sequence.slot, sequence.adapter.prefix)
            sequence.cached = sequence.virtual

    def fork(self, source: TokenSequence, target: TokenSequence) -> None:
        """Makes a sequence a copy of another, up to its cached tokens. Both have slots; only the difference is copied."""
        assert source.slot is not None
        assert target.slot is not None
        tokens = source.tokens[: source.cached]
        start, slid = common(target.tokens, tokens, target.cached), self._slid[source.slot]
        if self._reaches(target.slot, len(tokens)):
            slid = max(slid, self._slid[target.slot])
        else:
            start = 0
        if self._snapshots is not None:
            self._snapshots.copy(source.slot, target.slot)
        target.cached = start  # all that it holds, should the copy fail
        if start < len(tokens):
            self._copy(source.slot, target.slot, start, len(tokens))
        self._slide(target.slot, slid)
        target.tokens, target.cached, target.billed_tokens = tokens, len(tokens), source.billed_tokens
        target.virtual, target.invoked = source.virtual, source.invoked

    def give_back(self, sequence: TokenSequence) -> None:
        """Frees a sequence's slot, which keeps its content."""
        assert sequence.slot is not None
        del self._busy[sequence.slot]
        self._reading.pop(sequence, None)
        owner = None if self._idle is None else self._idle.owner(sequence)
        self._keep(sequence.slot, Kept.of(sequence, owner))
        sequence.slot = None

    def leave_all(self) -> None:
        """Keeps the content of all free slots on disk, where that is wanted, before the memory goes."""
        for slot, kept in self._free.items():
            if self._idle is not None and kept is not None:
                self._idle.leave(slot, kept, 0, slid=self._slid[slot], wait=True)

    def clear(self) -> None:
        """Discards the content of free slots, after a failed step that could have written anywhere."""
        for slot in self._free:
            self._free[slot] = None  # nothing of it goes to disk
            self._keep(slot, None)
        if self._snapshots is not None:
            self._snapshots.clear()

    def pending_prefix(self, sequence: TokenSequence) -> tuple[TokenSequence, int] | None:
        """Finds a sequence of the same tenant that is computing a longer shared prefix than any slot holds; and its length."""
        if self._snapshots is not None and not self._snapshots.rows:
            return None  # nothing could be left for it
        longest = self._best(sequence).shared + WORTH_A_COPY - 1
        best = None
        for other in self._busy.values():
            if other.tenant == sequence.tenant and other.uncached > 1:
                most = min(_findable(sequence), alike(other.adapter, other.acts_from, sequence))
                shared = common(other.tokens, sequence.tokens, most)
                if shared > longest and shared > other.cached:
                    best, longest = (other, shared), shared
        return best

    def _best(self, sequence: TokenSequence) -> Found:
        """Finds the slot in which most of a sequence can be continued."""
        findable, snapshots = _findable(sequence), self._snapshots
        left = [] if snapshots is None else snapshots.of(sequence, findable)
        best, known = Found(-1, 0), 0
        if snapshots is not None and snapshots.alone and left:
            best = Found(-1, *left[0])
        for slot, tokens, most, whole in self._contents(sequence):
            shared = common(tokens, sequence.tokens, min(most, findable))
            known = max(known, shared)
            row = None
            if snapshots is not None:
                own = [(shared, slot)] if whole and shared == len(tokens) else []
                shared, row = next((one for one in (*own, *left) if one[0] <= shared), (0, None))
            if shared > best.shared and self._reaches(slot, shared):
                best = Found(slot, shared, row)
        return best._replace(known=known)

    def _reaches(self, slot: int, shared: int) -> bool:
        """Whether a slot still has all that a query behind its first `shared` tokens sees: windows may have given it back."""
        return self._slid[slot] <= self._budget.behind(shared)

    def _contents(self, sequence: TokenSequence) -> Iterator[tuple[int, Sequence[int], int, bool]]:
        """Yields the content of each slot, free slots first, and how much of it at most is the same in a sequence; whether its states are
        those after all of it."""
        for slot, kept in self._free.items():
            if kept is not None and (most := kept.shared_with(sequence)):
                yield slot, kept.tokens, most, kept.whole
        for slot, other in self._busy.items():
            if most := alike(other.adapter, other.acts_from, sequence):
                yield slot, other.tokens[: other.cached], most, True

    def _beside(self, source: int) -> int:
        """Positions that a new sequence can have while a free slot keeps what it holds."""
        return self.unclaimed - self._taken(source)

    def _make_room(self, missing: int, spared: int = -1) -> bool:
        """Takes positions from behind windows, then from kept prefixes, until so many are free; False, and nothing is taken, where there
        are not so many."""
        slots = range(len(self._held))
        missing -= self._budget.tokens - sum(map(self._taken, slots))
        takeable = [slot for slot in self._free if slot != spared]
        behind = [slot for slot in (*self._busy, *takeable) if slot != spared]
        most = sum(map(self._taken, behind)) - sum(self._least(slot) for slot in behind if slot in self._busy)
        if missing > most:
            return False
        for slot in behind:
            if missing <= 0:
                break
            before = self._taken(slot)
            self._slide(slot, max(self._slid[slot], self._behind(slot)))
            missing -= before - self._taken(slot)
        for slot in takeable:
            if missing <= 0:
                break
            before, kept = self._taken(slot), self._free[slot]
            left = max(0, self._held[slot] - max(missing, LEAST_CUT) - self._budget.spare)
            tokens = [] if kept is None else kept.tokens[:left]
            shorter = len(tokens) >= WORTH_A_COPY and self._reaches(slot, len(tokens))
            whole = kept is not None and kept.whole and len(tokens) == len(kept.tokens)
            self._keep(
                slot, replace(kept, tokens=tokens, whole=whole) if kept is not None and shorter else None
            )
            missing -= before - self._taken(slot)
        return True

    def _slide(self, slot: int, positions: int) -> None:
        """Gives the memory of a slot's first positions back, in layers whose windows have gone past them."""
        if self._idle is not None and positions > self._slid[slot]:
            sequence = self._busy.get(slot)
            kept = self._free[slot] if sequence is None else Kept.of(sequence, self._idle.owner(sequence))
            if kept is not None:
                self._idle.leave(slot, kept, self._slid[slot], stop=positions, slid=self._slid[slot])
        self._slide_memory(slot, positions)
        self._slid[slot] = positions

    def _keep(self, slot: int, kept: Kept | None) -> None:
        """Lets a free slot hold this and no more."""
        if (before := self._free.get(slot)) is not None:
            self._leave(slot, before, 0 if kept is None else len(kept.tokens))
        self._free[slot] = kept if kept is not None and kept.tokens else None
        self._shrink(slot, self._budget.positions(0 if kept is None else len(kept.tokens)))

    def _leave(self, slot: int, kept: Kept, first: int) -> None:
        """Keeps on disk, where that is wanted, what a slot loses of its content: all from the `first` token on."""
        if self._idle is not None and first < len(kept.tokens):
            self._idle.leave(slot, kept, first, slid=self._slid[slot])

    def _shrink(self, slot: int, positions: int) -> None:
        if self._held[slot] > positions:
            self._cut_memory(slot, positions)
            self._held[slot] = positions
            self._slid[slot] = min(self._slid[slot], positions)

    def _worth_it(self, slot: int, shared: int) -> bool:
        """Whether a free slot may lose what it holds beyond the shared tokens."""
        kept = self._free[slot]
        return kept is None or len(kept.tokens) - shared < WORTH_A_COPY


def _findable(sequence: TokenSequence) -> int:
    """Number of tokens that may come from the cache. The newest is always computed, as its logits are needed."""
    return 0 if sequence.all_logits else max(len(sequence.tokens) - 1, 0)
