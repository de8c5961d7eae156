"""Packing, order and schedule: functions of their arguments and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from ptune.codecs.chat import Example
from ptune.config.recipe import Train
from ptune.training.order import Order, step_seed
from ptune.training.rows.packing import Share, bins, one_each, pack, targets
from ptune.training.schedule import factor

EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=12).map(
        lambda pairs: Example(tuple(token for token, _ in pairs), tuple(wanted for _, wanted in pairs))
    ),
    min_size=1,
    max_size=12,
)


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 60), st.integers(1, 4))
def test_bins_are_a_partition_that_fits_and_is_the_same_everywhere(
    lengths: list[int], max_tokens: int, processes: int
) -> None:
    rows = bins(lengths, max_tokens, processes)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert len(rows) % processes == 0
    for row in rows:
        assert row == sorted(row)
        assert len(row) <= 1 or sum(lengths[index] for index in row) <= max_tokens
    assert rows == bins(lengths, max_tokens, processes)


@given(LENGTHS, st.integers(30, 60))
def test_bins_are_few(lengths: list[int], max_tokens: int) -> None:
    """First-fit decreasing never takes more than 11/9 of the fewest possible, and one (Dósa 2007: 6/9)."""
    fewest = math.ceil(sum(lengths) / max_tokens)
    rows = bins(lengths, max_tokens)
    # The optimum is at least what the sum needs; halves that cannot share a bin need one each.
    large = sum(length > max_tokens / 2 for length in lengths)
    loads = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(rows) <= 2 * max(fewest, large)
    assert (
        len(loads) < 2 or loads[0] + loads[1] > max_tokens
    )  # two rows that would fit into one were not opened


def test_rows_of_a_step_are_balanced() -> None:
    lengths = [400, 390, 380, 120, 110, 100, 90, 80]
    loads = [sum(lengths[index] for index in row) for row in bins(lengths, 1000)]
    assert len(loads) == 2
    assert max(loads) - min(loads) <= 60


def test_many_examples_are_packed_quickly_enough_for_a_validation_set() -> None:
    lengths = [17 + (7919 * index) % 800 for index in range(20_000)]
    rows = bins(lengths, 4096)
    assert sum(len(row) for row in rows) == 20_000
    assert len(rows) <= 1.01 * math.ceil(sum(lengths) / 4096)


@given(EXAMPLES, st.integers(1, 20), st.integers(1, 3))
def test_processes_share_the_rows_and_each_has_as_many(
    examples: list[Example], max_tokens: int, processes: int
) -> None:
    shares = [
        list(pack(examples, max_tokens, "cpu", Share(process, processes))) for process in range(processes)
    ]
    assert len({len(rows) for rows in shares}) == 1
    found = sorted(
        (length, tuple(ids.tolist()))
        for rows in shares
        for row in rows
        for length, ids in zip(row.lengths, row.input_ids[0].split(row.lengths), strict=True)
    )
    idle = len(found) - len(examples)
    expected = sorted(
        [(len(example), example.ids) for example in examples] + [(1, examples[0].ids[:1])] * idle
    )
    assert found == expected
    for rows in shares:
        for row in rows:
            assert row.input_ids.shape == row.position_ids.shape == (1, sum(row.lengths))
            assert row.position_ids[0].tolist() == [
                place for length in row.lengths for place in range(length)
            ]
    assert sum(len(row.labels) for rows in shares for row in rows) == sum(map(targets, examples))


@given(EXAMPLES)
def test_labels_are_the_wanted_next_tokens_of_the_same_example(examples: list[Example]) -> None:
    for rows in (list(pack(examples, 1000, "cpu")), list(one_each(examples, "cpu"))):
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


@pytest.mark.parametrize(("rows", "steps"), [(450, 200), (40, 200), (10_000, 1250)])
def test_few_rows_are_passed_over_more_often(rows: int, steps: int) -> None:
    order, train = Order(rows, 16, 0), Train(epochs=2, batch_size=16, min_steps=200, patience=8)
    assert order.steps(train) == steps
    assert order.steps(train.model_copy(update={"max_steps": 7})) == 7
    assert order.validate_every(train) == max(10, rows // 64)
    assert order.validate_every(Train(batch_size=16)) == max(1, rows // 64)
    told = order.told(train)
    assert told.startswith(f"{steps} steps of 16 examples, {steps * 16 / rows:.3g} passes over {rows}")
    assert ("few rows" in told) == (rows < 1000)
    assert told.endswith("or until 8 validations in a row are no better")


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
