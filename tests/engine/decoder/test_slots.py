"""A prefix that was computed is found again, under the same adapter only, and changes no answer."""

from __future__ import annotations

import gc
from contextlib import closing
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ptune.engine.adapters.lora import Adapter
from ptune.engine.adapters.prefix import Prefix
from ptune.engine.decoder.cache.budget import CacheBudget
from ptune.engine.decoder.cache.kept import common
from ptune.engine.decoder.cache.slots import WORTH_A_COPY, Slots
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.sampling import Sampling

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


ADAPTERS = [None, Adapter("a", 1, {}, 0), Adapter("b", 1, {}, 0)]
GREEDY = Sampling(temperature=0)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=40),
            st.integers(0, 2),
            st.booleans(),
            st.integers(0, 3),
        ),
        max_size=30,
    )
)
def test_what_is_found_was_computed(sequences: list[tuple[list[int], int, bool, int]]) -> None:
    """Against a plain model: what each slot holds, token by token, and whose it is."""
    held: dict[int, list[tuple[int, int]]] = {slot: [] for slot in range(3)}

    def copy(source: int, target: int, start: int, tokens: int) -> None:
        assert (source != target, start) == (True, 0)
        assert tokens >= WORTH_A_COPY
        held[target][:tokens] = held[source][:tokens]
        assert len(held[target]) >= tokens

    slots, running = Slots(3, copy), list[TokenSequence]()
    for tokens, whose, scored, more in sequences:
        if not slots:
            slots.give_back(running.pop(0))
        sequence = TokenSequence(tokens, ADAPTERS[whose], all_logits=scored)
        slots.allocate(sequence)
        assert sequence.slot is not None
        assert 0 <= sequence.cached <= (0 if scored else len(tokens) - 1)
        assert held[sequence.slot][: sequence.cached] == [
            (token, whose) for token in tokens[: sequence.cached]
        ]
        held[sequence.slot][sequence.cached :] = [(token, whose) for token in tokens[sequence.cached :]]
        sequence.cached = len(tokens)
        running.append(sequence)
        for _ in range(min(more, len(running))):
            slots.give_back(running.pop())
    assert len({sequence.slot for sequence in running}) == len(running)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(0, 9))
def test_common(one: list[int], other: list[int], most: int) -> None:
    shared = common(one, other, most)
    assert one[:shared] == other[:shared]
    assert shared == min(most, len(one), len(other)) or one[shared] != other[shared]


def test_an_adapter_that_is_gone_leaves_nothing_to_the_base() -> None:
    slots, adapter = Slots(1, lambda *_: None), Adapter("gone", 1, {}, 0)
    sequence = TokenSequence([1, 2, 3], adapter)
    slots.allocate(sequence)
    sequence.cached = 3
    slots.give_back(sequence)
    del sequence, adapter
    gc.collect()
    base = TokenSequence([1, 2, 3, 4])
    slots.allocate(base)
    assert base.cached == 0


def test_virtual_tokens_are_put_where_no_slot_has_all_of_them() -> None:
    put, copied = list[tuple[int, Prefix]](), list[tuple[int, ...]]()
    slots = Slots(
        2,
        lambda *one: copied.append(one),
        budget=CacheBudget(tokens=320),
        put=lambda *one: put.append(one),
    )
    prefix = Prefix(20, {})
    adapter = Adapter("p", 0, {}, 0, prefix=prefix)

    def sequence(tokens: int, whose: Adapter | None) -> TokenSequence:
        made = TokenSequence([5] * tokens)
        made.begin(whose)
        slots.allocate(made)
        return made

    first = sequence(254, adapter)
    assert (first.cached, put, slots.reused) == (20, [(0, prefix)], 0)
    first.cached = 274
    beside = sequence(20, adapter)  # shares text, too
    assert (beside.cached, copied, slots.reused) == (39, [(0, 1, 0, 39)], 19)
    assert (first.reused, beside.reused) == (0, 19)
    slots.give_back(beside)
    twin = TokenSequence([])  # another beam
    twin.begin(adapter)
    slots.allocate(twin)
    assert (twin.tokens, twin.cached, len(put)) == ([], 0, 1)
    slots.fork(first, twin)
    slots.give_back(twin)
    slots.allocate(twin)  # after it was preempted
    assert (twin.virtual, twin.tokens) == (20, first.tokens)
    assert twin.cached >= 20
    slots.give_back(twin)
    slots.give_back(first)
    base = sequence(60, None)  # takes the other slot, and memory from the end of the first
    base.cached = 60
    last = sequence(20, adapter)
    assert (last.slot, last.cached, put) == (0, 20, [(0, prefix), (0, prefix)])


def answers(engine: Engine, prompts: list[list[int]], name: str) -> list[list[Token]]:
    requests = [Request(tuple(prompt), name, GREEDY, max_tokens=6, logprobs=3) for prompt in prompts]
    return [engine.generate_all([request])[0] for request in requests]


def test_the_same_bits_from_the_cache(tiny: TinyBundle) -> None:
    """A conversation that goes on, and others that begin alike; each against an engine that has seen nothing."""
    start = list(range(20, 60))
    prompts = [start, [*start, 7, 8, 9], [*start[:30], 5, 5], [*start, 7, 8, 9, 11]]
    with closing(Engine.open(tiny.folder, threads=1, max_rows=3, replay_golden=False)) as engine:
        warm = answers(engine, prompts, "base")
        reused = engine.stats().reused
        other = answers(engine, prompts[:1], "wide")
        assert engine.stats().reused == reused, "the base's tokens are not an adapter's"
    assert reused >= 40 + 30 + 43
    for prompt, found in zip(prompts, warm, strict=True):
        with closing(Engine.open(tiny.folder, threads=1, replay_golden=False)) as engine:
            assert answers(engine, [prompt], "base") == [found]
    with closing(Engine.open(tiny.folder, threads=1, replay_golden=False)) as engine:
        assert [token.id for token in answers(engine, prompts[:1], "wide")[0]] == [
            token.id for token in other[0]
        ]


def test_a_prefix_of_somebody_who_is_still_running_is_copied(tiny: TinyBundle) -> None:
    start = list(range(20, 60))
    with closing(
        Engine.open(tiny.folder, threads=1, max_rows=4, prefill_chunk=64, replay_golden=False)
    ) as engine:
        long = engine.generate(Request(tuple(start), "base", GREEDY, max_tokens=200))
        first = next(long)
        (copied,) = answers(engine, [[*start, 3]], "base")
        assert engine.stats().reused >= 40
        rest = [token.id for token in long]
    with closing(Engine.open(tiny.folder, threads=1, replay_golden=False)) as engine:
        assert answers(engine, [[*start, 3]], "base") == [copied]
        alone = engine.generate_all([Request(tuple(start), "base", GREEDY, max_tokens=200)])[0]
    assert [token.id for token in alone] == [first.id, *rest]
