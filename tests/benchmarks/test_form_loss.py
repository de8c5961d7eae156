"""The masked loss is torch's own over masked logits, and sides are compared row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import form_loss
from ptune.training.loss.judged import judged_loss, judged_loss_of

TARGETS, HIDDEN, VOCAB = 7, 5, 24


def drawn(labels: torch.Tensor) -> np.ndarray:
    """What is allowed at each target: about half of the tokens, the label among them."""
    allowed = np.random.default_rng(3).random((TARGETS, VOCAB)) < 0.5
    allowed[np.arange(TARGETS), labels.numpy()] = True
    return allowed


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_and_its_gradient_are_those_of_masked_logits(masked: bool) -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(TARGETS, HIDDEN), torch.randn(VOCAB, HIDDEN)
    labels = torch.randint(VOCAB, (TARGETS,))
    allowed = drawn(labels)

    mine = hidden.clone().requires_grad_()
    judge = form_loss.Allowed(torch.from_numpy(np.packbits(allowed, axis=1)), masked)
    loss, log_p = judged_loss(mine, weight, None, labels, judge, torch.device("cpu"))
    loss.backward()

    plain = hidden.clone().requires_grad_()
    free = plain @ weight.T
    served = free.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    of_labels = [F.log_softmax(logits, 1)[torch.arange(TARGETS), labels] for logits in (served, free)]
    expected = of_labels[0] if masked else of_labels[1]
    (-expected.sum()).backward()

    torch.testing.assert_close(log_p, expected)
    torch.testing.assert_close(loss, -expected.sum())
    torch.testing.assert_close(mine.grad, plain.grad)
    for column, (logits, log_ps) in enumerate(zip((served, free), of_labels, strict=True)):
        seen = torch.cat(judge.seen)[:, 2 * column :]
        torch.testing.assert_close(seen[:, 0], log_ps)
        assert torch.equal(seen[:, 1] == 1, logits.argmax(1) == labels)


def test_chunks_know_their_own_targets() -> None:
    torch.manual_seed(2)
    logits, labels = torch.randn(TARGETS, VOCAB), torch.randint(VOCAB, (TARGETS,))
    judge = form_loss.Allowed(torch.from_numpy(np.packbits(drawn(labels), axis=1)), True)
    whole, _ = judged_loss_of(logits, labels, judge)
    parts = zip(logits.split(3), labels.split(3), judge.split(3), strict=True)
    torch.testing.assert_close(sum(judged_loss_of(*part)[0] for part in parts), whole)
    assert len(torch.cat(judge.seen)) == 2 * TARGETS


def test_names_are_read_off_their_tags() -> None:
    tokens, tags = ["Press", "Left", "Shift", "in", "Paint"], ["O", "B-KEY", "I-KEY", "O", "B-APP"]
    found = form_loss.named(tokens, tags)
    assert found == {"apps": ["Paint"], "controls": [], "files": [], "keys": ["Left Shift"], "commands": []}


def test_sides_are_compared_row_by_row() -> None:
    ordinary = [{"loss": value} for value in (1.0, 2.0, 3.0)] * 9
    masked = [{"loss": 1.5 * row["loss"]} for row in ordinary]
    assert form_loss.over(masked, ordinary) == pytest.approx({"value": 1.5, "low": 1.5, "high": 1.5})
    assert form_loss.over_seeds([ordinary, masked])[:2] == [{"loss": 1.25}, {"loss": 2.5}]
