"""The loss of the best constant answer is the lowest that any constant logits reach."""

from __future__ import annotations

import math

import pytest
import torch

from ptune.codecs.labels import Labels, Problem
from ptune.tasks.encoder.train import Loss


def lowest(loss: Loss, wanted: torch.Tensor, targets: int) -> float:
    """Loss per target of constant logits, found by descent."""
    logits = torch.zeros(len(loss.labels), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(logits.expand(len(wanted), -1), wanted) / targets
        value.backward()
        return value

    optimizer.step(closure)
    return float(closure())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("problem", ["single", "tags", "multi"])
def test_no_constant_answer_is_better(
    problem: Problem, weights: tuple[float, ...] | None, smoothing: float
) -> None:
    held = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = Loss(Labels(("a", "b", "c"), problem), held, smoothing)
    if problem == "multi":
        sets = [(0,), (0, 1), (), (0, 2), (1,)]
        wanted = torch.tensor([[float(at in one) for at in range(3)] for one in sets], dtype=torch.float64)
        assert loss.constant(sets) == pytest.approx(lowest(loss, wanted, wanted.numel()), rel=1e-6)
    else:
        flat = [0, 0, 0, 1, 2, 0, 1]
        targets = [tuple(flat[:3]), tuple(flat[3:])] if problem == "tags" else flat
        assert loss.constant(targets) == pytest.approx(lowest(loss, torch.tensor(flat), 7), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("problem", ["single", "multi"])
def test_a_target_that_counts_twice_is_one_that_stands_there_twice(
    problem: Problem, smoothing: float
) -> None:
    loss = Loss(Labels(("a", "b", "c"), problem), None, smoothing)
    first, second, third = (0,), (0, 2), (1,)
    targets = [first, second, third] if problem == "multi" else [0, 2, 1]
    repeated = [targets[0]] * 3 + [targets[2]] * 2
    for scale in (1, 0.01):  # only ratios matter
        found = loss.constant(targets, [3 * scale, 0, 2 * scale])
        assert found == pytest.approx(loss.constant(repeated), rel=1e-12)


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
def test_the_shares_of_tags_are_the_best_constant_answer(weights: tuple[float, ...] | None) -> None:
    held = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss, targets = Loss(Labels(("O", "B-X", "I-X"), "tags"), held), [(0, 0, 0, 1), (2, 0, 1)]
    wanted = torch.tensor([tag for tags in targets for tag in tags])
    answer = loss.shares(targets).log().expand(len(wanted), -1)
    assert float(loss(answer, wanted)) / 7 == pytest.approx(lowest(loss, wanted, 7), rel=1e-6)
    assert loss.shares([(0, 0, 0)])[2] > 0


def test_it_is_the_entropy_of_the_labels_and_nothing_for_numbers() -> None:
    labels = Labels(("ham", "spam"), "single")
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert Loss(labels).constant([0, 0, 0, 1]) == pytest.approx(entropy, rel=1e-12)
    assert Loss(Labels(("score",), "regression")).constant([0.5, 1.5]) is None
