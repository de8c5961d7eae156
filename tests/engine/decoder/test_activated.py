"""aLoRA: the base before the last invocation of the prompt, the adapter from it on, and the base's cache up to there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import peft_folder, tiny_bundle
from support.prompt_adapters import Alone

from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.cache.slots import Slots
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Beams, Request
from ptune.engine.decoder.sequence import NEVER, TokenSequence, last_start
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax

CALL, OTHER = (40, 41, 42), (50,)
GREEDY = Sampling(temperature=0)
LIMIT = 5e-4
NAMES = [BASE, "judge", "writer", "lora"]


@dataclass
class Made:
    bundle: Bundle
    alone: dict[str, Alone]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("activated")
    base, _, bundle = tiny_bundle(place, "qwen3")
    folders = {}
    for seed, (name, call) in enumerate({"judge": CALL, "writer": OTHER, "lora": None}.items()):
        options = {} if call is None else {"alora_invocation_tokens": list(call)}
        folders[name] = peft_folder(base, place / name, seed=seed, spread=0.5, **options)
        install(bundle, folders[name], name)
    return Made(bundle, {name: Alone(base, folders.get(name)) for name in NAMES})


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Some with the invocation once, some twice, some at their ends, some without."""
    random, found = np.random.default_rng(seed), []
    for at in range(count):
        text = random.integers(60, 600, int(random.integers(4, 30))).tolist()
        for call in ((CALL,), (OTHER,), (CALL, CALL), (OTHER, CALL), ())[at % 5]:
            place = int(random.integers(0, len(text) + 1))
            text[place:place] = call
        found.append(text)
    return found


def test_rows_are_what_peft_computes_alone(made: Made) -> None:
    ids, names = prompts(20), [NAMES[at % 4] for at in range(20)]
    with closing(
        Engine.open(made.bundle, threads=1, max_rows=5, prefill_chunk=9, replay_golden=False)
    ) as engine:
        found = engine.logits(ids, names)
        asked = [
            Request(tuple(one), name, GREEDY, max_tokens=6) for one, name in zip(ids, names, strict=True)
        ]
        answers = engine.generate_all(asked)
    for sequence, name, rows in zip(ids, names, found, strict=True):
        expected = log_softmax(made.alone[name].logits(sequence))
        assert np.abs(log_softmax(rows) - expected).max() < LIMIT
    for one, answer in zip(asked, answers, strict=True):
        said = [token.id for token in answer]
        if not {*CALL, *OTHER} & {*said}:  # peft looks for invocations in what was said, too
            assert said == made.alone[one.adapter].greedy([*one.prompt], 6)


def test_up_to_the_invocation_the_bases_cache_is_used(made: Made) -> None:
    text = np.random.default_rng(5).integers(60, 600, 40).tolist()
    called = [*text, *CALL, 70, 71]
    with closing(Engine.open(made.bundle, threads=1, max_rows=4, replay_golden=False)) as engine:
        fresh = engine.generate_all([Request(tuple(called), "judge", GREEDY, max_tokens=25, logprobs=2)])
    with closing(Engine.open(made.bundle, threads=1, max_rows=4, replay_golden=False)) as engine:
        engine.generate_all([Request(tuple(text), BASE, GREEDY, max_tokens=2)])
        shared = engine.generate_all([Request(tuple(called), "judge", GREEDY, max_tokens=25, logprobs=2)])
        assert engine.stats().reused == 40
        engine.generate_all([Request((*text, *OTHER, 9), "writer", GREEDY, max_tokens=2)])
        assert engine.stats().reused == 80
        engine.generate_all([Request((*called, 7), "judge", GREEDY, max_tokens=2)])
        assert engine.stats().reused == 80 + len(called)
        engine.generate_all([Request((*called, 8), BASE, GREEDY, max_tokens=2)])
        assert engine.stats().reused == 120 + len(called)  # and not what the adapter computed
    assert [token.id for token in shared[0]] == [token.id for token in fresh[0]]
    for one, other in zip(fresh[0], shared[0], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_beams_and_short_memory_change_no_answer(made: Made) -> None:
    asked = [
        Request(tuple(ids), name, GREEDY, max_tokens=60, beams=Beams(2) if at % 3 == 0 else None)
        for at, (ids, name) in enumerate(zip(prompts(8, seed=4), NAMES * 2, strict=True))
    ]
    with closing(Engine.open(made.bundle, threads=1, max_rows=12, replay_golden=False)) as engine:
        expected = engine.generate_all(asked)
    bytes_ = 256 * made.bundle.decoder.cache_bytes_per_token()
    with closing(
        Engine.open(made.bundle, threads=1, max_rows=12, kv_bytes=bytes_, replay_golden=False)
    ) as engine:
        found = engine.generate_all(asked)
        assert engine.stats().preempted
    assert [[token.id for token in one] for one in found] == [[token.id for token in one] for one in expected]


def test_it_is_no_part_of_a_sum(made: Made) -> None:
    with (
        closing(Engine.open(made.bundle, threads=1, replay_golden=False)) as engine,
        pytest.raises(
            RequestError, match="adapter 'judge' acts from its invocation on, and is no part of a sum"
        ),
    ):
        engine.logits([[5, 6]], ["judge+lora"])


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_where_tokens_stand_last(tokens: list[int], sought: list[int]) -> None:
    found = last_start(tokens, sought)
    text, part = "".join(map(str, tokens)), "".join(map(str, sought))
    assert found == (text.rfind(part) if part in text else NEVER)


ADAPTERS: list[Adapter | None] = [
    None,
    Adapter("lora", 1, {}, 0),
    Adapter("one", 1, {}, 0, invocation=(1, 1)),
    Adapter("other", 1, {}, 0, invocation=(0, 1)),
]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.sampled_from([0, 1, 2, 3])),
        max_size=30,
    )
)
def test_what_is_found_was_computed_in_the_same_way(asked: list[tuple[list[int], int]]) -> None:
    """Against a plain model: what each slot holds, token by token, and under which adapter."""
    held: dict[int, list[tuple[int, str]]] = {slot: [] for slot in range(3)}

    def copy(source: int, target: int, start: int, tokens: int) -> None:
        held[target][:tokens] = held[source][:tokens]

    def computed(sequence: TokenSequence) -> Sequence[tuple[int, str]]:
        return [
            (token, "base" if (one := sequence.plugged(at)) is None else one.name)
            for at, token in enumerate(sequence.tokens)
        ]

    slots, running = Slots(3, copy), list[TokenSequence]()
    for tokens, whose in asked:
        if not slots:
            slots.give_back(running.pop(0))
        sequence = TokenSequence(tokens)
        sequence.begin(ADAPTERS[whose])
        slots.allocate(sequence)
        assert sequence.slot is not None
        right = computed(sequence)
        assert held[sequence.slot][: sequence.cached] == right[: sequence.cached]
        while sequence.uncached:
            count = sequence.at_once(min(7, sequence.uncached))
            assert len({name for _, name in right[sequence.cached : sequence.cached + count]}) == 1
            sequence.cached += count
        held[sequence.slot] = [*right]
        running.append(sequence)
