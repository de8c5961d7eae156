"""Whatever the scheduler does (chunks, copies, giving way, waiting for a sibling), each sequence is computed on its own tokens.

A model of the cache stands in for the graph: it holds, place by place, which token was computed in a slot and under which adapter.
It forgets what is cut off, and never holds more than its budget. Where layers keep states, each row of states is all that was computed
in it since its beginning: it can be gone on with and copied, and never cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
from hypothesis import given, settings

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.answers.beam_sequences import BeamGroup
from ptune.engine.decoder.answers.beams import BeamSearch
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.snapshots import Snapshots
from ptune.engine.decoder.fairness import MOST_PREEMPTED
from ptune.engine.decoder.request import Beams, Request, Token
from ptune.engine.decoder.scheduler import Scheduler
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.sampling import Sampling, log_softmax

ADAPTERS = [None, Adapter("a", 1, {}, 0)]
SLOTS = 5


@dataclass(frozen=True)
class Ask:
    """A sequence that comes after so many steps; `cancel`: and is given up so many steps later."""

    after: int
    beginning: int  # which of a few beginnings it has
    length: int
    own: tuple[int, ...]
    output: int
    tenant: str
    adapter: int
    scored: bool
    cancel: int | None
    beams: Beams | None

    @property
    def prompt(self) -> list[int]:
        return [(7 * self.beginning + place) % 5 for place in range(self.length)] + list(self.own)

    @property
    def most(self) -> int:
        return len(self.prompt) + self.output

    def fits(self, budget: CacheBudget) -> bool:
        """Whether an engine would not refuse it at once."""
        return self.most <= budget.longest(1 if self.beams is None else self.beams.num_beams)


def following(tokens: list[int], adapter: int) -> int:
    """The model: every token depends on all before it."""
    return hash((tuple(tokens), adapter)) % 5


def logits(tokens: list[int], adapter: int) -> npt.NDArray[np.float32]:
    """The model's [1, 8] where it is searched."""
    random = np.random.default_rng(hash((tuple(tokens), adapter)) % 2**32)
    return random.normal(0, 1, (1, 8)).astype(np.float32)


def searched(ask: Ask) -> tuple[int, ...]:
    """What beam search finds without a scheduler."""
    assert ask.beams is not None
    search = BeamSearch(ask.beams, ask.output, {7})
    while not search.done:
        search.step(
            [log_softmax(logits([*ask.prompt, *beam.tokens], ask.adapter)[0]) for beam in search.live]
        )
    return search.best().tokens


asks = st.builds(
    Ask,
    after=st.integers(0, 12),
    beginning=st.integers(0, 1),
    length=st.integers(1, 60),
    own=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    output=st.integers(1, 25),
    tenant=st.sampled_from(["", "b", "c"]),
    adapter=st.integers(0, 1),
    scored=st.booleans(),
    cancel=st.none() | st.integers(0, 20),
    beams=st.none() | st.builds(Beams, st.integers(2, SLOTS), st.sampled_from([0.5, 2.0]), st.booleans()),
)


class Model:
    """A scheduler with the model's cache behind it."""

    def __init__(self, chunk: int, budget: CacheBudget, kept: Keeps) -> None:
        self.held: dict[int, list[tuple[int, int]]] = {slot: [] for slot in range(SLOTS)}
        self.budget, self.resident = budget, [0] * SLOTS  # positions
        self.states: dict[int, list[tuple[int, int]]] = {row: [] for row in range(SLOTS + kept.snapshots)}
        rows = range(SLOTS, SLOTS + kept.snapshots)
        self.keys = kept.keys  # whether there is attention
        self.snapshots = Snapshots(rows, self._copy_states, alone=not kept.keys) if kept.states else None
        self.scheduler = Scheduler(
            SLOTS, chunk, 99, copy=self._copy, cut=self._cut, budget=budget, snapshots=self.snapshots
        )
        self.asked: dict[TokenSequence, Ask] = {}
        self.told: dict[TokenSequence, list[Token]] = {}  # of searches
        self.ended: list[TokenSequence] = []

    def submit(self, ask: Ask) -> TokenSequence:
        sequence = self._search(ask, ask.beams) if ask.beams is not None else self._row(ask)
        for member in sequence.group:
            member.adapter = ADAPTERS[ask.adapter]
            self.asked[member] = ask
        self.scheduler.submit(sequence)
        return sequence

    def _row(self, ask: Ask) -> TokenSequence:
        return TokenSequence(ask.prompt, all_logits=ask.scored, tenant=ask.tenant, most_tokens=ask.most)

    def _search(self, ask: Ask, beams: Beams) -> TokenSequence:
        request = Request(
            tuple(ask.prompt),
            sampling=Sampling(temperature=0),
            max_tokens=ask.output,
            stop_ids=frozenset({7}),
            beams=beams,
            tenant=ask.tenant,
        )
        told: list[Token] = []
        search = BeamGroup(request, beams, self.scheduler.slots.fork, told.append)
        self.told[search] = told
        return search

    def step(self) -> None:
        self.scheduler.drop_ended()
        chunks = self.scheduler.plan()
        assert chunks or not self.scheduler.busy, "something is computed as long as somebody waits"
        for chunk in chunks:
            self._compute(chunk)
        self.scheduler.computed(chunks)
        ended = []
        for chunk in chunks:
            sequence, ask = chunk.sequence, self.asked[chunk.sequence]
            if ask.beams is not None:
                sequence.take(chunk, logits(sequence.tokens, ask.adapter))
            elif chunk.newest:
                sequence.tokens.append(following(sequence.tokens, ask.adapter))
                sequence.all_logits = False
                if len(sequence.tokens) - len(ask.prompt) == ask.output:
                    ended.append(sequence)
        ended += [sequence for sequence in self.scheduler.running if sequence.finished]
        self.scheduler.release(ended)
        self.ended += ended

    def _compute(self, chunk: Chunk) -> None:
        sequence, whose = chunk.sequence, self.asked[chunk.sequence].adapter
        assert sequence.slot is not None
        place = self.held[sequence.slot]
        before, new = (
            [(token, whose) for token in tokens] for tokens in (sequence.tokens[: chunk.start], chunk.tokens)
        )
        assert not self.keys or place[: chunk.start] == before
        place[chunk.start :] = new
        if self.snapshots is not None:
            states = self.states[sequence.slot] if chunk.start else []
            assert states == before
            self.states[sequence.slot] = states + new
        self._touch(sequence.slot, len(place) + self.budget.spare)

    def _copy_states(self, source: int, target: int) -> None:
        assert source != target
        self.states[target] = self.states[source]

    def _copy(self, source: int, target: int, start: int, stop: int) -> None:
        assert not self.keys or len(self.held[source]) >= stop
        self.held[target][start:] = self.held[source][start:stop]
        self._touch(target, stop)

    def _cut(self, slot: int, positions: int) -> None:
        del self.held[slot][positions:]
        self.resident[slot] = min(self.resident[slot], positions)

    def _touch(self, slot: int, positions: int) -> None:
        page = self.budget.page
        pages = -(-min(positions, self.budget.slot) // page)
        self.resident[slot] = max(self.resident[slot], pages * page)
        assert sum(self.resident) <= self.budget.tokens


@dataclass(frozen=True)
class Keeps:
    """What the layers of a model keep of a sequence."""

    keys: bool = True  # and values
    states: bool = False
    snapshots: int = 0


keeps = st.just(Keeps()) | st.builds(
    Keeps, keys=st.booleans(), states=st.just(True), snapshots=st.integers(0, 4)
)
budgets = st.just(CacheBudget(tokens=SLOTS * 128, slot=128)) | st.builds(
    CacheBudget,
    tokens=st.sampled_from([96, 128, 208, 400]),
    page=st.sampled_from([1, 16]),
    spare=st.integers(0, 6),
    slot=st.just(96),
)


@settings(max_examples=200)
@given(
    st.lists(asks, min_size=1, max_size=12),
    st.integers(1, 20),
    st.sets(st.integers(0, 60), max_size=4),
    budgets,
    keeps,
)
def test_every_answer_is_that_of_the_sequence_alone(
    many: list[Ask], chunk: int, failing: set[int], budget: CacheBudget, kept: Keeps
) -> None:
    """Also after steps that failed for nobody in particular: all is computed again, but what cannot be told twice."""
    many = [ask for ask in many if ask.fits(budget)]
    model, given_up = Model(chunk, budget, kept), []
    sequences: dict[TokenSequence, int] = {}
    coming = sorted(many, key=lambda ask: ask.after)
    tokens = sum((len(ask.prompt) + ask.output) * (ask.beams.num_beams if ask.beams else 1) for ask in many)
    # With little memory each of the others may be preempted once more whenever one of them ends.
    again = 0 if budget.tokens == SLOTS * budget.slot else len(many)
    steps, most = 0, 12 + (1 + MOST_PREEMPTED + len(failing) + again) * tokens
    while coming or model.scheduler.busy:
        while coming and coming[0].after <= steps:
            sequences[model.submit(coming.pop(0))] = steps
        for sequence, begun in sequences.items():
            cancel = model.asked[sequence].cancel
            if cancel is not None and steps - begun == cancel and sequence not in model.ended:
                sequence.cancelled = True
                given_up.append(sequence)
        if steps in failing:
            for sequence in model.scheduler.invalidate_cache():
                sequence.cancelled = True
                given_up.append(sequence)
        model.step()
        steps += 1
        assert steps <= most, "somebody starves"
    assert {*model.ended, *given_up} == set(sequences)
    for sequence in model.ended:
        if sequence in model.told:
            assert tuple(token.id for token in model.told[sequence]) == searched(model.asked[sequence])
            continue
        expected = model.asked[sequence].prompt
        for _ in range(model.asked[sequence].output):
            expected.append(following(expected, model.asked[sequence].adapter))
        assert sequence.tokens == expected
    assert sorted(model.scheduler.slots.free) == list(range(SLOTS))
