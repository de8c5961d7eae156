"""Packing, order and schedule: functions of their arguments and nothing else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from ptune.codecs.chat import Example
from ptune.recipe import Train
from ptune.training.order import Order, shard, step_seed
from ptune.training.packing import one_each, pack, targets
from ptune.training.schedule import factor

EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=12).map(
        lambda pairs: Example(tuple(token for token, _ in pairs), tuple(wanted for _, wanted in pairs))
    ),
    min_size=1,
    max_size=12,
)


@given(EXAMPLES, st.integers(1, 20))
def test_rows_hold_whole_examples_in_order_and_no_more_than_fits(
    examples: list[Example], max_tokens: int
) -> None:
    rows = pack(examples, max_tokens, "cpu")
    assert [length for row in rows for length in row.lengths] == [len(example) for example in examples]
    assert torch.cat([row.input_ids[0] for row in rows]).tolist() == [
        t for example in examples for t in example.ids
    ]
    for row in rows:
        assert row.input_ids.shape == row.position_ids.shape == (1, sum(row.lengths))
        assert sum(row.lengths) <= max_tokens or len(row.lengths) == 1
        assert row.position_ids[0].tolist() == [place for length in row.lengths for place in range(length)]
    for left, right in itertools.pairwise(rows):
        assert (
            sum(left.lengths) + right.lengths[0] > max_tokens
        )  # a new row only where the next example did not fit


@given(EXAMPLES)
def test_labels_are_the_wanted_next_tokens_of_the_same_example(examples: list[Example]) -> None:
    for rows in (pack(examples, 1000, "cpu"), one_each(examples, "cpu")):
        labels = [label for row in rows for label in row.labels.tolist()]
        expected = [
            example.ids[place]
            for example in examples
            for place in range(1, len(example))
            if example.targets[place]
        ]
        assert labels == expected
        assert len(labels) == sum(targets(example) for example in examples)
        for row in rows:
            # The column that predicts never lies in the example before: its next position is not a first one.
            assert (row.position_ids[0, row.predict_at + 1] > 0).all()
            assert torch.equal(row.input_ids[0, row.predict_at + 1], row.labels)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_is_a_permutation_and_every_step_is_whole(
    examples: int, batch_size: int, seed: int
) -> None:
    order = Order(examples, batch_size, seed)
    steps = order.steps(Train(epochs=3, batch_size=batch_size))
    batches = [order.batch(step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    seen = [index for batch in batches for index in batch]
    assert len(seen) >= 3 * examples
    for epoch in range(3):
        assert sorted(seen[epoch * examples : (epoch + 1) * examples]) == list(range(examples))
    assert batches == [Order(examples, batch_size, seed).batch(step) for step in range(steps)]


def test_order_depends_on_seed_and_epoch() -> None:
    first, second = Order(50, 50, seed=0), Order(50, 50, seed=1)
    assert first.batch(0) != second.batch(0)
    assert first.batch(0) != first.batch(1)


def test_steps_of_fractional_epochs() -> None:
    assert Order(100, 8, 0).steps(Train(epochs=0.5)) == math.ceil(50 / 8)
    assert Order(100, 8, 0).steps(Train(epochs=9, max_steps=3)) == 3


@given(st.lists(st.integers()), st.integers(1, 5))
def test_shards_are_a_partition(items: list[int], processes: int) -> None:
    parts = [shard(items, process, processes) for process in range(processes)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_dropout_is_seeded_by_step_and_process() -> None:
    seeds = {step_seed(seed, step, process) for seed in range(3) for step in range(3) for process in range(3)}
    assert len(seeds) == 27


def transformers_factors(schedule: str, steps: int, warmup_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}[schedule]
    scheduler = make(optimizer, warmup_steps, steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_after_warm_up_the_schedules_are_those_of_transformers(schedule: str) -> None:
    found = [factor(step, 40, schedule, warmup=0.2) for step in range(40)]  # type: ignore[arg-type]
    assert found[8:] == pytest.approx(transformers_factors(schedule, 40, 8)[8:])


def test_warm_up_rises_evenly_and_wastes_no_step() -> None:
    found = [factor(step, 20, "constant", warmup=0.2) for step in range(20)]
    assert found == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5] + [1.0] * 16)


def test_wsd_is_flat_and_then_falls_evenly() -> None:
    found = [factor(step, 20, "wsd", warmup=0.0, decay=0.2) for step in range(20)]
    assert found == pytest.approx([1.0] * 16 + [4 / 5, 3 / 5, 2 / 5, 1 / 5])


@given(
    st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    st.integers(1, 60),
    st.floats(0, 0.9),
    st.floats(0.01, 1.0),
)
def test_no_step_has_a_rate_of_zero_or_beyond_the_peak(
    schedule: str, steps: int, warmup: float, decay: float
) -> None:
    found = [factor(step, steps, schedule, warmup=warmup, decay=decay) for step in range(steps)]  # type: ignore[arg-type]
    assert all(0 < value <= 1 for value in found)
