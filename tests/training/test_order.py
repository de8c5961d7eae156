"""Mixtures: every file has its share of what training sees, at every moment."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.config.recipe import Train
from ptune.training.order import Mixture, Order

WEIGHT = st.integers(0, 50).map(float) | st.floats(0, 1e3)
PARTS = st.lists(st.tuples(st.integers(1, 20), WEIGHT), min_size=1, max_size=6).filter(
    lambda parts: any(weight for _, weight in parts)
)


def mixture_of(parts: list[tuple[int, float]]) -> Mixture:
    return Mixture(tuple(size for size, _ in parts), tuple(weight for _, weight in parts))


@given(PARTS, st.integers(0, 10**9), st.integers(1, 300))
def test_every_window_has_the_shares_that_were_asked_for(
    parts: list[tuple[int, float]], first: int, length: int
) -> None:
    mixture = mixture_of(parts)
    before, after = mixture.turns(first), mixture.turns(first + length)
    assert sum(after) - sum(before) == length
    for (_, weight), start, end in zip(parts, before, after, strict=True):
        share = weight / sum(mixture.weights)
        assert end - start == pytest.approx(share * length, abs=3)
        assert end - start == 0 or weight > 0


@settings(max_examples=60)
@given(PARTS, st.integers(1, 9), st.integers(0, 3), st.integers(0, 1000))
def test_every_part_goes_through_permutations_of_its_own(
    parts: list[tuple[int, float]], batch_size: int, seed: int, step: int
) -> None:
    mixture, total = mixture_of(parts), sum(size for size, _ in parts)
    order = Order(total, batch_size, seed, mixture)
    steps = 200 // batch_size
    batches = [order.batch(step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    start = 0
    for size, _ in parts:
        own = [index for batch in batches for index in batch if start <= index < start + size]
        for epoch in range(len(own) // size):
            assert sorted(own[epoch * size : (epoch + 1) * size]) == list(range(start, start + size))
        start += size
    # A pure function: whoever starts late sees the same.
    assert Order(total, batch_size, seed, mixture).batch(step) == order.batch(step)


def test_an_epoch_of_a_mixture_is_as_many_examples_as_there_are() -> None:
    order = Order(100, 10, 0, Mixture((90, 10), (1.0, 1.0)))
    assert order.steps(Train(epochs=1)) == 10
    seen = Counter(index for step in range(10) for index in order.batch(step))
    assert sum(seen[index] for index in range(90)) == 50
    assert {seen[index] for index in range(90)} == {0, 1}
    assert {seen[index] for index in range(90, 100)} == {5}


def test_a_batch_is_mixed() -> None:
    order = Order(1000, 8, 0, Mixture((500, 400, 100), (0.5, 0.25, 0.25)))
    for step in range(50):
        counts = Counter((index >= 500) + (index >= 900) for index in order.batch(step))
        assert counts == {0: 4, 1: 2, 2: 2}


def test_the_order_of_a_mixture_depends_on_the_seed() -> None:
    mixture = Mixture((50, 50), (3.0, 1.0))
    assert Order(100, 8, 0, mixture).batch(0) != Order(100, 8, 1, mixture).batch(0)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 9), st.integers(0, 3))
def test_the_first_epoch_goes_from_short_to_long_and_later_ones_are_shuffled(
    data: st.DataObject, batch_size: int, seed: int
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    count = len(lengths)
    order, usual = Order(count, batch_size, seed, None, lengths), Order(count, batch_size, seed)
    steps = -(-3 * count // batch_size)
    seen, shuffled = ([index for step in range(steps) for index in of.batch(step)] for of in (order, usual))
    assert [lengths[index] for index in seen[:count]] == sorted(lengths)
    assert sorted(seen[:count]) == list(range(count))
    assert seen[count:] == shuffled[count:]
    for length in set(lengths):  # those of a length are shuffled
        assert [at for at in seen[:count] if lengths[at] == length] == [
            at for at in shuffled[:count] if lengths[at] == length
        ]
    late = data.draw(st.integers(0, steps - 1))
    assert Order(count, batch_size, seed, None, lengths).batch(late) == order.batch(late)


def test_each_part_of_a_mixture_begins_with_its_shortest() -> None:
    lengths, mixture = [*range(90, 0, -1), *range(10)], Mixture((90, 10), (1.0, 1.0))
    order = Order(100, 10, 0, mixture, lengths)
    seen = [index for step in range(18) for index in order.batch(step)]
    assert [index for index in seen if index < 90] == list(range(89, -1, -1))
    assert [index for index in seen if index >= 90][:10] == list(range(90, 100))
    assert [index for index in seen if index >= 90][10:20] != list(range(90, 100))


def test_without_weights_the_order_is_what_it_was() -> None:
    """What earlier runs saw, so that they can be resumed: recorded from the version that began them."""
    assert [Order(7, 4, 3).batch(step) for step in range(4)] == [
        [1, 2, 5, 0],
        [6, 3, 4, 2],
        [6, 5, 0, 1],
        [3, 4, 2, 1],
    ]


@settings(max_examples=60)
@given(PARTS, st.integers(1, 9), st.booleans())
def test_the_pass_from_short_to_long_rows_is_known(
    parts: list[tuple[int, float]], batch_size: int, mixed: bool
) -> None:
    """A step is in order as long as one of its examples is there for the first time in its part."""
    sizes = [size for size, _ in parts]
    order = Order(sum(sizes), batch_size, 0, mixture_of(parts) if mixed else None, lengths=[1] * sum(sizes))
    seen = set[int]()
    for step in range(60):
        batch = order.batch(step)
        new = [index not in seen and not seen.add(index) for index in batch]  # type: ignore[func-returns-value]
        assert order.in_order(step) is any(new)
    assert not Order(9, 3, 0).in_order(0)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 30))
def test_steps_that_learn_from_the_same_examples(examples: int, size: int, each: int, step: int) -> None:
    once, several = Order(examples, size, 3), Order(examples, size, 3, each=each)
    assert {tuple(several.batch(step * each + again)) for again in range(each)} == {tuple(once.batch(step))}
    train = Train(epochs=2.5, batch_size=size)
    assert several.steps(train) == each * once.steps(train)
    assert several.validate_every(train) == each * once.validate_every(train)
    assert (
        several.told(train).split("examples, ")[-1].split(", ")[-1]
        == once.told(train).split("examples, ")[-1]
    )


@pytest.mark.parametrize(
    ("epochs", "examples", "size", "steps"), [(1.1, 100, 10, 11), (1.1, 50, 5, 11), (0.3, 10, 2, 2)]
)
def test_passes_that_come_out_even_make_no_further_step(
    epochs: float, examples: int, size: int, steps: int
) -> None:
    assert Order(examples, size, 0).steps(Train(epochs=epochs)) == steps
