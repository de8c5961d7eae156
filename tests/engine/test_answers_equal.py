"""Whatever the scheduler does (chunks, copies, giving way, waiting for a sibling), each row is computed on its own tokens.

A model of the cache stands in for the graph: it holds, place by place, which token was computed in a slot and under which adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import given, settings

from ptune.engine.adapters import Adapter
from ptune.engine.fairness import MOST_PREEMPTED
from ptune.engine.scheduler import Chunk, Row, Scheduler

ADAPTERS = [None, Adapter("a", 1, {}, 0)]
SLOTS = 3


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

    @property
    def prompt(self) -> list[int]:
        return [(7 * self.beginning + place) % 5 for place in range(self.length)] + list(self.own)


def following(tokens: list[int], adapter: int) -> int:
    """The model: every token depends on all before it."""
    return hash((tuple(tokens), adapter)) % 5


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
)


class Model:
    """A scheduler with the model's cache behind it."""

    def __init__(self, chunk: int) -> None:
        self.held: dict[int, list[tuple[int, int]]] = {slot: [] for slot in range(SLOTS)}
        self.scheduler = Scheduler(SLOTS, chunk, 99, copy=self._copy)
        self.asked: dict[Row, Ask] = {}
        self.ended: list[Row] = []

    def submit(self, ask: Ask) -> Row:
        row = Row(ask.prompt, ADAPTERS[ask.adapter], all_logits=ask.scored, tenant=ask.tenant)
        self.asked[row] = ask
        self.scheduler.submit(row)
        return row

    def step(self) -> None:
        self.scheduler.drop_over()
        chunks = self.scheduler.plan()
        assert chunks or not self.scheduler.busy, "something is computed as long as somebody waits"
        for chunk in chunks:
            self._compute(chunk)
        self.scheduler.computed(chunks)
        ended = []
        for chunk in chunks:
            row, ask = chunk.row, self.asked[chunk.row]
            if chunk.newest:
                row.tokens.append(following(row.tokens, ask.adapter))
                row.all_logits = False
                if len(row.tokens) - len(ask.prompt) == ask.output:
                    ended.append(row)
        self.scheduler.release(ended)
        self.ended += ended

    def _compute(self, chunk: Chunk) -> None:
        row, whose = chunk.row, self.asked[chunk.row].adapter
        assert row.slot is not None
        place = self.held[row.slot]
        assert place[: chunk.start] == [(token, whose) for token in row.tokens[: chunk.start]]
        place[chunk.start :] = [(token, whose) for token in chunk.tokens]

    def _copy(self, source: int, target: int, tokens: int) -> None:
        assert len(self.held[source]) >= tokens
        self.held[target] = self.held[source][:tokens]


@settings(max_examples=150)
@given(st.lists(asks, min_size=1, max_size=12), st.integers(1, 20))
def test_every_answer_is_that_of_the_sequence_alone(many: list[Ask], chunk: int) -> None:
    model, given_up = Model(chunk), []
    rows: dict[Row, int] = {}
    coming = sorted(many, key=lambda ask: ask.after)
    steps, most = 0, 12 + (1 + MOST_PREEMPTED) * sum(len(ask.prompt) + ask.output for ask in many)
    while coming or model.scheduler.busy:
        while coming and coming[0].after <= steps:
            rows[model.submit(coming.pop(0))] = steps
        for row, begun in rows.items():
            cancel = model.asked[row].cancel
            if cancel is not None and steps - begun == cancel and row not in model.ended:
                row.cancelled = True
                given_up.append(row)
        model.step()
        steps += 1
        assert steps <= most, "somebody starves"
    assert {*model.ended, *given_up} == set(rows)
    for row in model.ended:
        expected = model.asked[row].prompt
        for _ in range(model.asked[row].output):
            expected.append(following(expected, model.asked[row].adapter))
        assert row.tokens == expected
    assert sorted(model.scheduler.slots.free) == list(range(SLOTS))
