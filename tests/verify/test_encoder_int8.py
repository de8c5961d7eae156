"""What int8 may change, and that a bundle whose int8 graph answers otherwise is not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptune.tasks.encoder.infer import Encoded
from ptune.verify.encoder import held_texts
from ptune.verify.encoder.int8 import same_answers


def rows(problem: str, count: int = 200) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    size = {"tags": (5, 3), "regression": (1, 1)}.get(problem, (1, 3))
    return [chance.standard_normal(size).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("problem", ["single", "multi", "regression", "tags"])
def test_the_share_of_the_same_answers(problem: str) -> None:
    there = rows(problem)
    hop = same_answers(problem, there, there)  # type: ignore[arg-type]
    assert (hop.top1, hop.passed, hop.prompts) == (1.0, True, 200)
    for wrong, passes in ((1, True), (20, False)):
        here = [row if index >= wrong else -row for index, row in enumerate(there)]
        hop = same_answers(problem, there, here)  # type: ignore[arg-type]
        assert hop.passed == passes, hop
        assert hop.top1 is not None
        assert 1 - wrong / 200 - 1e-9 <= hop.top1 < 1
        assert "mean |Δ" in hop.note
    broken = [np.full_like(row, np.nan) for row in there]
    assert not same_answers(problem, there, broken).passed  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", ["single", "multi", "regression", "vector"])
def test_what_is_no_number_is_no_answer_on_either_side(problem: Any) -> None:
    right, wrong = [np.ones((4, 3), np.float32)], [np.ones((4, 3), np.float32)]
    wrong[0][2, 0] = np.nan
    assert same_answers(problem, right, right).passed
    assert not same_answers(problem, right, wrong).passed
    assert not same_answers(problem, wrong, right).passed


def test_mean_change_of_the_probabilities() -> None:
    there, here = (
        [np.log(np.array([[0.5, 0.25, 0.25]], np.float32))],
        [np.log(np.array([[0.6, 0.2, 0.2]], np.float32))],
    )
    assert same_answers("single", there, here).note == "mean |Δp| 0.0667"


def test_held_texts_come_back(tmp_path: Path) -> None:
    texts = [
        Encoded({"input_ids": np.array([2, 7, 3]), "token_type_ids": np.array([0, 0, 1])}),
        Encoded({"input_ids": np.array([2, 7, 8, 9, 3]), "token_type_ids": np.zeros(5, np.int64)}, (1, 3)),
    ]
    held_texts.save(texts, tmp_path)
    found = held_texts.load(tmp_path)
    assert [one.first for one in found] == [None, (1, 3)]
    for one, other in zip(found, texts, strict=True):
        assert {k: v.tolist() for k, v in one.inputs.items()} == {
            k: v.tolist() for k, v in other.inputs.items()
        }
