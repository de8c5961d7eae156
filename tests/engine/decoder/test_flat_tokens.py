"""How tokens lie before the graph: every token in one cell, an adapter's only in its own group, little room wasted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.adapters.lora import Adapter
from ptune.engine.decoder.inputs.flat_tokens import EMPTY, SCORES, divide, flat_indices, split_wide
from ptune.engine.decoder.inputs.lora_slots import LoraSlots
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.formats.signature import Signature

SIGNATURE = Signature(vocab_size=9, context=999, cache=(), sockets=())
ADAPTERS = [Adapter(str(number), 1, {}, 0) for number in range(8)]


def chunk(number: int | None, length: int) -> Chunk:
    return Chunk(TokenSequence([1] * length, None if number is None else ADAPTERS[number]), 0, length)


STEPS = st.lists(st.tuples(st.none() | st.integers(0, 7), st.integers(1, 130)), min_size=1, max_size=20)


@settings(max_examples=200)
@given(STEPS)
def test_every_token_has_a_cell_of_its_own_in_its_adapters_group(step: list[tuple[int | None, int]]) -> None:
    chunks = [chunk(number, length) for number, length in step]
    runs = divide(chunks)
    assert sorted(map(id, (one for run in runs for one in run))) == sorted(map(id, chunks))
    places = LoraSlots(SIGNATURE, 8)
    for run in runs:
        adapters = {one.sequence.adapter for one in run if one.sequence.adapter is not None}
        window = places.of(adapters)
        flat, width = flat_indices(run, window)
        cells = np.concatenate(flat)
        assert len({*cells.tolist()}) == len(cells) == sum(map(len, run))
        assert cells.min() >= 0
        assert cells.max() < window.count * width
        for one, indices in zip(run, flat, strict=True):
            if one.sequence.adapter is not None:
                assert {*(indices // width).tolist()} == {window.groups[one.sequence.adapter]}
        of_adapters = sum(len(one) for one in run if one.sequence.adapter is not None)
        if window.count == len(adapters):  # no idle place between them
            assert window.count * width <= max(EMPTY + 2 * of_adapters, sum(map(len, run)) + window.count)


@given(
    st.dictionaries(st.integers(0, 40), st.integers(1, 130), min_size=1, max_size=20), st.integers(1, 200_000)
)
def test_scores_of_a_run_stay_small(lengths: dict[int, int], length: int) -> None:
    chunks = [chunk(None, each) for each in lengths.values()]
    for slot, one in zip(lengths, chunks, strict=True):
        one.sequence.slot = slot
    runs = split_wide(chunks, length)
    assert sorted(map(id, (one for run in runs for one in run))) == sorted(map(id, chunks))
    for run in runs:
        slots = [one.sequence.slot for one in run if one.sequence.slot is not None]
        scores = (max(slots) - min(slots) + 1) * max(2, *map(len, run)) * length
        assert scores <= SCORES or len(run) == 1
    if 41 * max(2, *lengths.values()) * length <= SCORES:
        assert runs == [chunks]


def test_a_prompt_beside_others_that_generate_is_computed_by_itself() -> None:
    prompt, others, base = chunk(0, 128), [chunk(number, 1) for number in range(1, 8)], chunk(None, 128)
    assert [len(run) for run in divide([prompt, *others])] == [1, 7]
    assert [len(run) for run in divide([*others, base])] == [8]  # the base's tokens lie anywhere
    assert [len(run) for run in divide([chunk(number, 1) for number in range(8)])] == [8]
    assert [len(run) for run in divide([prompt, base])] == [2]
